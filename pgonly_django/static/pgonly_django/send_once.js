"use strict";

// A form is sent once: the second click of a double click would make a second job.
{
    const sent = new WeakSet();

    document.addEventListener("submit", (event) => {
        if (sent.has(event.target)) event.preventDefault();
        sent.add(event.target);
    });

    // A page that the browser shows again, after Back, can be sent again.
    window.addEventListener("pageshow", (event) => {
        if (event.persisted) document.querySelectorAll("form").forEach((form) => sent.delete(form));
    });
}
