"use strict";

// Keeps the page of an unfinished job up to date: fetches the page again and replaces the parts that changed.
// Without this script the page shows the same, but does not refresh.
{
    const PARTS = "[data-live]";
    const SCROLLING = ".pgonly-code, .pgonly-scroll";
    const page = () => document.querySelector("[data-refresh-seconds]");

    // Without the CSRF token, which differs in every answer, and without what the reader has opened.
    const comparable = (part) => {
        const copy = part.cloneNode(true);
        copy.querySelectorAll("input[name=csrfmiddlewaretoken]").forEach((input) => input.remove());
        copy.querySelectorAll("details").forEach((details) => details.removeAttribute("open"));
        return copy.innerHTML;
    };

    // Keeps what the reader has opened and scrolled.
    const replacePart = (old, fresh) => {
        if (comparable(old) === comparable(fresh)) return;
        const opened = [...old.querySelectorAll("details[id]")].map((details) => [details.id, details.open]);
        const scrolled = [...old.querySelectorAll(SCROLLING)].map((box) => box.scrollTop);
        old.replaceChildren(...fresh.childNodes);
        opened.forEach(([id, open]) => {
            const details = document.getElementById(id);
            if (details) details.open = open;
        });
        old.querySelectorAll(SCROLLING).forEach((box, place) => { box.scrollTop = scrolled[place] ?? 0; });
    };

    const replaceParts = (fresh) => {
        const names = (root) => [...root.querySelectorAll(PARTS)].map((part) => part.dataset.live).join();
        if (names(page()) !== names(fresh)) {
            page().replaceWith(fresh);  // a part appeared or disappeared
            return;
        }
        fresh.querySelectorAll(PARTS).forEach((part) => {
            replacePart(page().querySelector(`[data-live="${part.dataset.live}"]`), part);
        });
        if (!fresh.dataset.refreshSeconds) delete page().dataset.refreshSeconds;
    };

    const refresh = async () => {
        const answer = await fetch(location.href, { credentials: "same-origin" });
        if (!answer.ok || answer.redirected) return;
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector(".pgonly-job");
        if (fresh && page()) replaceParts(fresh);
    };

    const refreshLater = () => {
        if (!page()) return;
        setTimeout(async () => {
            if (!document.hidden) await refresh().catch(() => undefined);  // offline: the next one may succeed
            refreshLater();
        }, 1000 * Number(page().dataset.refreshSeconds));
    };

    document.addEventListener("DOMContentLoaded", refreshLater);
}
