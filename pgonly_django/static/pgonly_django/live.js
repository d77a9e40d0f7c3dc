"use strict";

// Keeps a page of the admin up to date: fetches the page again and carries what has changed into its data-live parts.
// An element that is in both versions stays the same element, and so do focus, checked boxes, opened details, scroll
// positions and typed text. Without this script the page shows the same, but does not refresh.
{
    const ROOT = "[data-live-root]";
    const LONGEST_PAUSE = 60_000;
    const TIMEOUT = 30_000;
    const AFTER_SUBMIT = 10_000;
    const PAUSE_PER_ANSWER = 9;  // slow pages are fetched less often: a tenth of the time at most
    const REMEMBERED = "pgonly.live";
    // What belongs to the reader or to another script.
    const LEFT_ALONE = "input:not([type=hidden]), input[name=csrfmiddlewaretoken], textarea, select, div.actions, [data-live-switch], [data-keys-switch]";
    const KEPT_ATTRIBUTES = /^(open|style|tabindex|x-.*)$/;

    // Which element of the other version this one is. Rows of a list are told apart by their checkbox or first link.
    const keyOf = (node) => {
        if (node.nodeType !== Node.ELEMENT_NODE) return `#${node.nodeType}`;
        let own = node.dataset.live ?? node.dataset.key ?? node.id;
        if (!own && node.nodeName === "TR") {
            own = node.querySelector("input.action-select")?.value ?? node.querySelector("a[href]")?.getAttribute("href");
        }
        if (!own && node.nodeName === "FORM") own = node.getAttribute("action");
        if (!own && node.nodeName === "INPUT") own = `${node.type} ${node.name}`;
        return `${node.nodeName} ${own ?? ""}`;
    };

    const isTyped = (field) => field === document.activeElement || field.value !== field.defaultValue;

    // A row that the reader has selected and a field with his text stay, though the new version has them no more.
    const isKept = (node) => {
        if (node.nodeType !== Node.ELEMENT_NODE) return false;
        const fields = [node, ...node.querySelectorAll("input, textarea")];
        return fields.some((field) => (
            field.matches("input.action-select:checked")
            || (field.matches("textarea, input:not([type=checkbox], [type=radio], [type=hidden], [type=submit])") && isTyped(field))
        ));
    };

    const carryAttributes = (old, fresh) => {
        for (const { name } of [...old.attributes]) {
            if (!fresh.hasAttribute(name) && !KEPT_ATTRIBUTES.test(name)) old.removeAttribute(name);
        }
        for (const { name, value } of fresh.attributes) {
            if (old.getAttribute(name) !== value && !KEPT_ATTRIBUTES.test(name)) old.setAttribute(name, value);
        }
    };

    const carryChildren = (old, fresh) => {
        const left = new Map();
        for (const node of old.childNodes) left.set(keyOf(node), [...(left.get(keyOf(node)) ?? []), node]);
        const pairs = [...fresh.childNodes].map((node) => [node, left.get(keyOf(node))?.shift()]);
        const kept = new Set();
        for (const node of [...left.values()].flat()) {
            if (!isKept(node)) {
                node.remove();
                continue;
            }
            kept.add(node);
            node.dataset.gone = "";
        }
        let place = old.firstChild;
        for (const [node, same] of pairs) {
            while (kept.has(place)) place = place.nextSibling;
            if (!same) {
                old.insertBefore(document.importNode(node, true), place);
                continue;
            }
            if (same === place) place = place.nextSibling;
            else old.insertBefore(same, place);
            carry(same, node);
        }
    };

    const carry = (old, fresh) => {
        if (old.nodeType !== Node.ELEMENT_NODE) {
            if (old.data !== fresh.data) old.data = fresh.data;
        } else if (!old.matches(LEFT_ALONE)) {
            carryAttributes(old, fresh);
            carryChildren(old, fresh);
        }
    };

    // Django's script for actions knows only the checkboxes that were there when the page was loaded.
    const countSelected = () => {
        const boxes = [...document.querySelectorAll("#result_list input.action-select")];
        const counter = document.querySelector("div.actions span.action-counter");
        const all = document.getElementById("action-toggle");
        if (!counter || !all) return;
        boxes.forEach((box) => box.closest("tr").classList.toggle("selected", box.checked));
        const selected = boxes.filter((box) => box.checked).length;
        all.checked = boxes.length > 0 && selected === boxes.length;
        counter.dataset.actionsIcnt = boxes.length;
        if (window.interpolate && window.ngettext) {
            const text = ngettext("%(sel)s of %(cnt)s selected", "%(sel)s of %(cnt)s selected", selected);
            counter.textContent = interpolate(text, { sel: selected, cnt: boxes.length }, true);
        }
    };

    const followSelection = () => {
        document.addEventListener("change", (event) => {
            if (event.target.matches?.("input.action-select")) countSelected();
        });
        document.addEventListener("click", (event) => {
            if (event.target.id !== "action-toggle") return;
            const checked = event.target.checked;
            document.querySelectorAll("#result_list input.action-select").forEach((box) => { box.checked = checked; });
            countSelected();
        });
    };

    const partsOf = (root) => [...root.querySelectorAll("[data-live]")];

    const update = (root, fresh) => {
        const focused = document.activeElement;
        const around = focused?.closest("[data-live]");
        const [ours, theirs] = [partsOf(root), partsOf(fresh)];
        const names = (parts) => parts.map((part) => part.dataset.live).join("\n");
        if (names(ours) === names(theirs)) ours.forEach((part, place) => carry(part, theirs[place]));
        else carryChildren(root, fresh);
        countSelected();
        if (focused === document.activeElement) return;
        if (focused.isConnected) focused.focus({ preventScroll: true });
        else if (around?.isConnected) {
            around.tabIndex = -1;
            around.focus({ preventScroll: true });
        }
    };

    // localStorage may be forbidden; then the switch forgets.
    const remembered = (value) => {
        try {
            if (value !== undefined) localStorage.setItem(REMEMBERED, value);
            return localStorage.getItem(REMEMBERED);
        } catch {
            return null;
        }
    };

    const start = () => {
        const root = document.querySelector(ROOT);
        const line = document.querySelector("[data-live-switch]");
        if (!root?.dataset.refreshSeconds || !line) return;
        const box = line.querySelector("input");
        const status = line.querySelector("[role=status]");
        let timer, request, failures = 0, offlineSince, ended = false;

        const say = (text) => { if (status.textContent !== text) status.textContent = text; };
        const isOn = () => box.checked && !document.hidden && !ended;
        const pause = () => {
            clearTimeout(timer);
            request?.abort();
        };
        const lookIn = (milliseconds) => {
            pause();
            if (isOn()) timer = setTimeout(look, milliseconds);
        };
        const end = (text) => {
            ended = true;
            box.disabled = true;
            box.checked = false;
            say(text);
        };
        const nextPause = (took) => {
            const usual = 1000 * Number(root.dataset.refreshSeconds);
            return Math.min(Math.max(usual * 2 ** failures, took * PAUSE_PER_ANSWER), LONGEST_PAUSE);
        };
        const fetchPage = async () => {
            request = new AbortController();
            const { signal } = request;
            const tooLate = setTimeout(() => request.abort(), TIMEOUT);
            try {
                const answer = await fetch(location.href, { credentials: "same-origin", headers: { "X-Pgonly-Live": "1" }, signal });
                if (answer.status >= 500) throw new Error(answer.statusText);
                return { answer, text: await answer.text(), signal };
            } finally {
                clearTimeout(tooLate);
            }
        };
        const take = (answer, text) => {
            const fresh = new DOMParser().parseFromString(text, "text/html");
            const freshRoot = fresh.querySelector(ROOT);
            if (!answer.ok || answer.redirected || !freshRoot) {
                end(line.dataset.stopped);
                return;
            }
            update(root, freshRoot);
            document.title = fresh.title;
            failures = 0;
            say("");
            if (freshRoot.dataset.refreshSeconds) {
                root.dataset.refreshSeconds = freshRoot.dataset.refreshSeconds;
            } else {
                end("");
                line.hidden = true;
            }
        };
        const look = async () => {
            const began = performance.now();
            const mine = timer;
            try {
                const { answer, text } = await fetchPage();
                if (mine !== timer || !isOn()) return;  // switched off, hidden, or a form was sent
                take(answer, text);
            } catch {
                if (mine !== timer || !isOn()) return;
                if (!failures) offlineSince = new Date().toLocaleTimeString();
                failures += 1;
                say(line.dataset.offline.replace("%s", offlineSince));
            }
            lookIn(nextPause(performance.now() - began));
        };

        box.checked = remembered() !== "off";
        line.hidden = false;
        box.addEventListener("change", () => {
            remembered(box.checked ? "on" : "off");
            say("");
            lookIn(0);
        });
        document.addEventListener("visibilitychange", () => lookIn(0));
        // What this page has sent is answered by a page; a look in between would take its messages away.
        window.addEventListener("submit", (event) => { if (!event.defaultPrevented) lookIn(AFTER_SUBMIT); });
        window.addEventListener("pagehide", pause);
        window.addEventListener("pageshow", (event) => { if (event.persisted) lookIn(0); });
        followSelection();
        lookIn(nextPause(0));
    };

    document.addEventListener("DOMContentLoaded", start);
}
