// The texts of a page that are hard to read on their background: fewer than `least` to one, by WCAG 2. Opaque colours
// only; text over a picture or a gradient is left out, and so is Django's own frame around the pages of the admin.
(least) => {
    document.getAnimations().forEach((change) => change.finish());  // links go from one colour to the next
    const channels = (colour) => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const known = new Map();
    const rgba = (colour) => {
        if (!known.has(colour)) known.set(colour, channels(colour));
        return known.get(colour);
    };
    const over = (top, below) => {
        const share = top[3] / 255;
        return [0, 1, 2].map((n) => top[n] * share + below[n] * (1 - share)).concat(255);
    };
    const luminance = (colour) => {
        const [red, green, blue] = colour.slice(0, 3).map((value) => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const behind = (element) => {
        const layers = [];
        for (let each = element; each; each = each.parentElement) {
            const style = getComputedStyle(each);
            if (style.backgroundImage !== "none") return null;
            layers.push(rgba(style.backgroundColor));
            if (layers.at(-1)[3] === 255) break;
        }
        const canvas = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 255] : [255, 255, 255, 255];
        return layers.reduceRight((below, top) => over(top, below), canvas);
    };
    const found = [];
    const place = document.querySelector("#content") ?? document.body;
    for (const element of place.querySelectorAll("*")) {
        const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!own || !element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        if (element.closest(":disabled, [aria-hidden=true], .visually-hidden, .hidden, option, progress, noscript")) continue;
        const background = behind(element);
        if (!background) continue;
        const text = over(rgba(getComputedStyle(element).color), background);
        const [light, dark] = [luminance(text), luminance(background)].sort((a, b) => b - a);
        const ratio = (light + 0.05) / (dark + 0.05);
        if (ratio < least) found.push(`${ratio.toFixed(1)} ${element.nodeName} .${element.className}: ${element.textContent.trim().slice(0, 40)}`);
    }
    return [...new Set(found)];
}
