"use strict";

// Keeps the page of an unfinished job up to date: fetches the page itself and swaps the parts that changed.
// Without this script the page is the same, only still.
{
    const MOVING = "[data-live]";
    const page = () => document.querySelector("[data-refresh-seconds]");

    const SCROLLING = ".pgonly-code, .pgonly-scroll";
    const openedIn = (part) => new Map([...part.querySelectorAll("details[id]")].map((d) => [d.id, d.open]));

    // The forms carry a CSRF token that is new in every answer; it alone is no change.
    const essence = (part) => {
        const copy = part.cloneNode(true);
        copy.querySelectorAll("input[name=csrfmiddlewaretoken]").forEach((input) => input.remove());
        copy.querySelectorAll("details").forEach((details) => details.removeAttribute("open"));
        return copy.innerHTML;
    };

    const swap = (old, fresh) => {
        if (essence(old) === essence(fresh)) return;
        const opened = openedIn(old);
        const scrolled = [...old.querySelectorAll(SCROLLING)].map((box) => box.scrollTop);
        old.replaceChildren(...fresh.childNodes);
        opened.forEach((open, id) => {
            const details = document.getElementById(id);
            if (details) details.open = open;
        });
        old.querySelectorAll(SCROLLING).forEach((box, place) => { box.scrollTop = scrolled[place] ?? 0; });
    };

    const take = (fresh) => {
        const names = (root) => [...root.querySelectorAll(MOVING)].map((part) => part.dataset.live).join();
        if (names(page()) !== names(fresh)) {
            page().replaceWith(fresh);  // a part came or went
        } else {
            fresh.querySelectorAll(MOVING).forEach((part) => {
                swap(page().querySelector(`[data-live="${part.dataset.live}"]`), part);
            });
            if (!fresh.dataset.refreshSeconds) delete page().dataset.refreshSeconds;
        }
    };

    const refresh = async () => {
        const answer = await fetch(location.href, { credentials: "same-origin" });
        if (!answer.ok || answer.redirected) return;
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".pgonly-job");
        if (fresh && page()) take(fresh);
    };

    const wait = () => {
        if (!page()) return;
        setTimeout(async () => {
            if (!document.hidden) await refresh().catch(() => undefined);  // offline: try again
            wait();
        }, 1000 * Number(page().dataset.refreshSeconds));
    };

    document.addEventListener("DOMContentLoaded", wait);
}
