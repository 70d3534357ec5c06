// Layouts of other tools: JSON in which things have boxes, as language models and prompt builders write it.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const BOXES = ["box", "bbox", "box_2d", "bounding_box", "boundingBox"];
    const WORDS = ["phrase", "label", "desc", "description", "caption", "prompt", "text", "name"];
    const GRID = 1000;
    const DEEPEST = 100;

    // Returns {text, left}: the layout's own text, and how many things had no box; or {problem}: a sentence.
    // A list of four numbers is [y1, x1, y2, x2] of 0 to 1000, or x, y, w, h where no number of the file is above 1.
    function read(text) {
        const layout = amdm.text.read(text);
        // its own boxes are x0, y0, x1, y1: one row that is wrong does not make them another tool's
        if (layout.rows.some(row => row.kind === "region" && !row.problem)) return {text, left: 0};
        const json = parsed(text);
        if (json === undefined) {
            return {problem: layout.form === "lines" && layout.problems.length
                ? `The text ${layout.problems[0].message}.` : "This is neither a layout nor JSON with boxes."};
        }
        const things = [];
        const without = gather(json, "", things);
        if (without === null) return {problem: "It has lists too deep in lists; take the part with the boxes."};
        const {MOST_ROWS} = amdm.text;
        if (things.length > MOST_ROWS) {
            return {problem: `It has ${things.length} things with boxes, but at most ${MOST_ROWS} are read; remove some.`};
        }
        if (!things.length) {
            return {problem: "It has no boxes: nothing is named box, bbox or box_2d, or has x, y, w and h."};
        }
        const large = things.some(({list}) => list && list.some(value => value > 1));
        const rows = [];
        for (const [n, thing] of things.entries()) {
            const phrase = thing.phrase || `thing ${n + 1}`;
            const box = boxOf(thing, large);
            if (!box) {
                return {problem: `The box of "${amdm.text.clipped(phrase)}" cannot be used: it must be `
                    + "[y1, x1, y2, x2] of 0 to 1000, or x, y, w, h of 0 to 1 within the picture."};
            }
            rows.push({kind: "region", phrase, box});
        }
        return {text: amdm.text.write(rows, "lines"), left: without};
    }

    // JSON in the text, also between words or marks of code.
    function parsed(text) {
        const [from, to] = [text.search(/[[{]/), Math.max(text.lastIndexOf("]"), text.lastIndexOf("}"))];
        try {
            return from >= 0 ? JSON.parse(text.slice(from, to + 1)) : undefined;
        } catch {
            return undefined;
        }
    }

    // Adds all things with a box to `things`; returns how many there are with words alone, or null where the lists are
    // too deep in each other to be followed.
    function gather(value, phrase, things, level = 0) {
        if (!value || typeof value !== "object") return 0;
        if (level > DEEPEST) return null;
        if (isBox(value)) {
            things.push({phrase, list: value});
            return 0;
        }
        if (Array.isArray(value)) {
            const [words, list] = value;
            const named = value.length === 2 && typeof words === "string" && isBox(list);
            if (named) return gather(list, oneLine(words), things, level);
            return sum(value, things, level + 1);
        }
        const said = WORDS.map(name => value[name]).find(entry => typeof entry === "string" && entry.trim());
        const words = oneLine(said || "");
        const box = BOXES.map(name => value[name]).find(entry => entry && typeof entry === "object") || value;
        const sides = sidesOf(box);
        if (isBox(box) || sides) {
            things.push({phrase: words, list: sides ? null : box, sides});
            return 0;
        }
        const before = things.length;
        const count = sum(Object.values(value), things, level + 1);
        return count === null ? null : count + (words && things.length === before && "type" in value ? 1 : 0);
    }

    function sum(values, things, level) {
        let count = 0;
        for (const value of values) {
            const more = gather(value, "", things, level);
            if (more === null) return null;
            count += more;
        }
        return count;
    }

    function isBox(value) {
        return Array.isArray(value) && value.length === 4 && value.every(side => typeof side === "number");
    }

    function sidesOf({x, y, w, h, width, height}) {
        const sides = [x, y, w ?? width, h ?? height];
        return isBox(sides) ? sides : null;
    }

    function boxOf({list, sides}, large) {
        const [x, y, w, h] = sides || list;
        const [y1, x1, y2, x2] = list || [];
        const box = !sides && large ? [x1, y1, x2, y2].map(value => value / GRID) : [x, y, x + w, y + h];
        const round = box.map(value => Math.round(value * 1e4) / 1e4);
        const within = round.every(value => value >= 0 && value <= 1);
        return within && round[0] < round[2] && round[1] < round[3] ? round : null;
    }

    function oneLine(words) {
        return amdm.text.oneLine(words);
    }

    amdm.imports = {read};
})();
