"use strict";

// Keys on the pages of the admin: / goes to the search, j and k to the next and the previous row of the list, o opens the
// row that has the focus (as Enter does), r retries jobs, but asks first. They can be switched off: single letters get in
// the way of people who dictate (WCAG 2.1.4).
{
    const REMEMBERED = "pgonly.keys";
    const FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";

    // localStorage may be forbidden; then the switch forgets.
    const stored = (...value) => {
        try {
            return value.length ? localStorage.setItem(REMEMBERED, ...value) : localStorage.getItem(REMEMBERED);
        } catch {
            return null;
        }
    };
    let isOn = stored() !== "off";

    const rows = () => [...document.querySelectorAll("#result_list tbody tr")].filter((each) => each.querySelector("a[href]"));
    const row = () => rows().find((each) => each.contains(document.activeElement));
    const focused = (element) => {
        element?.focus();
        return element;
    };

    const move = (step) => {
        const all = rows();
        const from = all.indexOf(row());
        const to = from < 0 ? 0 : Math.min(Math.max(from + step, 0), all.length - 1);
        return focused(all[to]?.querySelector("a[href]"));
    };

    const open = () => {
        const link = row()?.querySelector("a[href]");
        link?.click();
        return link;
    };

    // On the page of a job Enter then presses the button. In the list it is the action, which asks: of the selected rows,
    // or of the one that has the focus.
    const retry = () => {
        const button = document.querySelector(".pgonly-button-retry");
        button?.closest("details")?.setAttribute("open", "");
        return focused(button) ?? retryRows(document.getElementById("changelist-form"));
    };

    const retryRows = (form) => {
        const action = form?.querySelector("select[name=action]");
        const selected = () => form.querySelector(".action-select:checked");
        if (!action?.querySelector("option[value=retry_jobs]")) return null;
        if (!selected()) row()?.querySelector(".action-select")?.click();
        if (!selected()) return null;
        action.value = "retry_jobs";
        form.requestSubmit(form.querySelector("[name=index]"));
        return form;
    };

    // Each returns the element on which it has acted, if there is one.
    const KEYS = {
        "/": () => focused(document.getElementById("searchbar")),
        j: () => move(1),
        k: () => move(-1),
        o: open,
        r: retry,
    };

    document.addEventListener("keydown", (event) => {
        const isWithOthers = event.ctrlKey || event.metaKey || event.altKey || event.isComposing;
        if (!isOn || isWithOthers || event.defaultPrevented || event.target.closest?.(FIELDS)) return;
        if (Object.hasOwn(KEYS, event.key) && KEYS[event.key]()) event.preventDefault();
    });

    document.addEventListener("DOMContentLoaded", () => {
        const line = document.querySelector("[data-keys-switch]");
        const box = line?.querySelector("input");
        if (!box) return;
        line.hidden = false;
        box.checked = isOn;
        box.addEventListener("change", () => {
            isOn = box.checked;
            stored(isOn ? "on" : "off");
        });
    });
}
