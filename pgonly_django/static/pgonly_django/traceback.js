"use strict";

// The buttons of a traceback: copy it, and open what is folded. Without this script they are not shown, and the folded
// frames open with their own summaries.
{
    document.documentElement.classList.add("pgonly-scripted");

    const openAll = (box) => box.querySelectorAll("details").forEach((details) => { details.open = true; });
    const textOf = (box) => [...box.querySelectorAll("[data-text]")].map((part) => part.textContent).join("");

    const select = (box) => {
        openAll(box);
        getSelection().selectAllChildren(box);
    };

    const labels = new WeakMap();
    const say = (button, text) => {
        if (!labels.has(button)) labels.set(button, button.textContent);
        button.textContent = text;
        setTimeout(() => { button.textContent = labels.get(button); }, 3000);
    };

    // The clipboard is there on HTTPS alone, and a policy may refuse it.
    const copy = async (button, box) => {
        try {
            await navigator.clipboard.writeText(textOf(box));
            say(button, button.dataset.copied);
        } catch {
            select(box);
            say(button, button.dataset.selected);
        }
    };

    document.addEventListener("click", (event) => {
        const button = event.target.closest("[data-copy], [data-open-all]");
        if (!button) return;
        const box = document.getElementById(button.dataset.copy ?? button.dataset.openAll);
        if (!box) return;
        if (button.dataset.copy) copy(button, box);
        else openAll(box);
    });
}
