// The parts of a page that are cut off, or that one has to scroll to sideways: their names. Texts that end in an ellipsis
// and blocks of code may be. And cells of a card whose label stands beside the card.
() => {
    const place = document.querySelector("#content") ?? document.body;
    const wide = [...place.querySelectorAll("*")].filter((element) => {
        if (element.closest("pre, select, input, textarea, svg, .visually-hidden, .pgonly-hidden") || !element.checkVisibility()) return false;
        const style = getComputedStyle(element);
        if (style.overflowX === "visible" || style.textOverflow === "ellipsis" || element.clientWidth <= 1) return false;
        return element.scrollWidth > element.clientWidth + 1;
    });
    const unlabelled = [...place.querySelectorAll("[data-label]")].filter((cell) => {
        const indent = -parseFloat(getComputedStyle(cell, "::before").marginInlineStart);
        return cell.checkVisibility() && indent > parseFloat(getComputedStyle(cell).paddingInlineStart) + 1;
    });
    return [...wide, ...unlabelled].map((element) => `${element.nodeName} .${element.className} by ${element.scrollWidth - element.clientWidth} px`);
}
