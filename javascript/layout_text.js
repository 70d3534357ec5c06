// The text of a layout or of a region's boxes, read as lib_amdm/layout.py reads it, but row by row: a row that cannot be
// read does not hide the others. What is wrong with a row is said in short; lib_amdm/layout.py has the last word. And
// written again, so that only those rows change that were changed.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const MOST_ROWS = 500;
    const PLACE = /^[0-9]{1,9}$/;
    const NUMBER = /^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$/;
    const SHORT = 80;
    const CUT = "...";
    // Python and JavaScript do not agree on what is blank
    const BLANK = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
    const OUTER_BLANKS = new RegExp(`^[${BLANK}]+|[${BLANK}]+$`, "g");
    const BLANKS = new RegExp(`[${BLANK}]+`, "g");
    const NAMES = {layout: "Layout", region: "Region"};
    const QUOTATION_MARKS = ["\"\"", "''", "“”", "„“", "„”", "«»", "»«", "‘’", "‚‘", "‹›", "「」"];
    const LINE = /[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+/g;
    const REGION_NAMES = "box,phrase";
    const ACTION_NAMES = "action,object,subject";

    function strip(text) {
        return text.replace(OUTER_BLANKS, "");
    }

    function oneLine(text) {
        return strip(text).replace(BLANKS, " ");
    }

    function clipped(text, limit = SHORT) {
        const letters = Array.from(text);
        return letters.length <= limit ? text : letters.slice(0, limit - CUT.length).join("") + CUT;
    }

    // Returns {form, rows, problems}. form: "lines" or "json". rows: in order, each with its source in the text (from,
    // to), and by its kind "region" {phrase, box}, "action" {subject, action, object: numbers of regions} or "unknown";
    // what cannot be used of it is null, and its problem says why. problems: all sentences {message, from, to}, those
    // of rows included. locked: nothing can be made of the text, so that nothing can be drawn into it. kind: "layout",
    // or "region", whose boxes need no phrase and have no actions.
    function read(text, kind = "layout") {
        const of = KINDS[kind];
        const bare = bareOf(text);
        const start = bare ? text.indexOf(bare) : text.length;
        const json = /^[[{]/.test(bare);
        const parsed = json ? jsonRows(bare, of) : {rows: lineRows(bare, of)};
        const whole = parsed.problem || (parsed.rows.length > MOST_ROWS
            ? `has ${parsed.rows.length} rows, but at most ${MOST_ROWS} are read; remove some` : "");
        const rows = whole ? [] : parsed.rows;
        for (const row of rows) {
            row.source = bare.slice(row.from, row.to);
            row.from += start;
            row.to += start;
        }
        const regions = rows.filter(row => row.kind === "region");
        // an action may stand before the phrases that it names
        for (const part of ["region", "action", "unknown"]) {
            rows.forEach((row, n) => row.kind === part && check(row, `row ${n + 1}`, regions, of));
        }
        const problems = rows.filter(row => row.problem).map(({problem, from, to}) => ({message: problem, from, to}));
        if (whole) problems.push({message: whole, from: start, to: start + bare.length});
        return {form: json ? "json" : "lines", rows, problems, locked: Boolean(whole)};
    }

    function bareOf(text) {
        return strip(strip(text).replace(/^\ufeff/, ""));
    }

    // ---- lines ----

    function lineRows(text, of) {
        const rows = [];
        for (const match of text.matchAll(LINE)) {
            const line = strip(match[0]);
            if (!line) continue;
            const from = match.index + match[0].indexOf(line);
            rows.push({...of.line(line, rows.length + 1), from, to: from + line.length});
        }
        return rows;
    }

    function layoutLine(line, number) {
        const parts = line.split(">");
        const colon = line.lastIndexOf(":");
        if (parts.length === 3) {
            const [subject, action, object] = parts.map(unquoted);
            return {kind: "action", parts: {subject, action, object}};
        }
        if (colon >= 0) return boxLine(line);
        const problem = `has a row ${number} that is not like a ball: 0 0 0.5 1 or like a boy > kicking > a ball; `
            + "correct it";
        return {kind: "unknown", problem};
    }

    // A region's row may have a phrase, as a layout's has.
    function boxLine(line) {
        const colon = line.lastIndexOf(":");
        const phrase = unquoted(line.slice(0, Math.max(colon, 0)));
        return {kind: "region", parts: {phrase, box: values(line.slice(colon + 1))}};
    }

    function unquoted(part) {
        const text = strip(part);
        const inner = strip(text.slice(1, -1));
        const [first, last] = [text[0], text[text.length - 1]];
        const marked = Array.from(text).length > 2 && QUOTATION_MARKS.includes(first + last);
        return marked && !inner.includes(first) && !inner.includes(last) ? inner : text;
    }

    function values(text) {
        const outer = /^[ [\]\t]+|[ [\]\t]+$/g;
        return text.replace(outer, "").split(new RegExp(`[${BLANK},]+`)).map(value);
    }

    // A number, or the word itself where it is none.
    function value(word) {
        return NUMBER.test(word) ? Number(word) : word;
    }

    // ---- JSON ----

    function jsonRows(text, of) {
        if (text.startsWith("{")) {
            return {rows: [], problem: refusedAsJson(text, of) || `must be a list of ${of.list}; correct it`};
        }
        const {parts, end} = split(text);
        if (end < text.length - 1) {
            return {rows: [], problem: `is not JSON (something follows its end); correct it, or write lines such as ${
                of.example}`};
        }
        return {rows: parts.map((place, n) => jsonRow(text.slice(place.from, place.to), place, n + 1, of))};
    }

    function refusedAsJson(text, of) {
        try {
            JSON.parse(text);
            return "";
        } catch (error) {
            return `is not JSON (${reason(error)}); correct it, or write lines such as ${of.example}`;
        }
    }

    function reason(error) {
        return clipped(oneLine(error.message));
    }

    // The places of a list's parts in a text that begins with "[", whether or not each of them can be read.
    function split(text) {
        const parts = [];
        let depth = 0;
        let quoted = false;
        let from = 1;
        const add = to => {
            const part = text.slice(from, to);
            const bare = part.trim();
            const start = from + part.indexOf(bare);
            parts.push({from: start, to: start + bare.length});
        };
        for (let at = 1; at < text.length; at++) {
            const letter = text[at];
            if (quoted) {
                if (letter === "\\") at += 1;
                else if (letter === "\"") quoted = false;
            } else if (letter === "\"") {
                quoted = true;
            } else if (letter === "[" || letter === "{") {
                depth += 1;
            } else if ((letter === "]" || letter === "}") && depth) {
                depth -= 1;
            } else if (letter === "]") {
                if (parts.length || text.slice(from, at).trim()) add(at);
                return {parts, end: at};
            } else if (letter === "," && !depth) {
                add(at);
                from = at + 1;
            }
        }
        add(text.length);
        parts[parts.length - 1].open = true;
        return {parts, end: text.length};
    }

    function jsonRow(source, {from, to, open}, number, of) {
        const place = {from, to};
        try {
            const value = JSON.parse(source);
            if (open) throw new Error("the list has no end");
            return {...of.json(value, source, number), ...place};
        } catch (error) {
            const problem = `has a row ${number} that is not JSON (${reason(error)}); correct it`;
            return {kind: "unknown", problem, ...place};
        }
    }

    function isObject(value) {
        return Boolean(value) && typeof value === "object" && !Array.isArray(value);
    }

    function layoutJson(parts, source, number) {
        const names = isObject(parts) ? Object.keys(parts).sort().join() : "";
        if (names === REGION_NAMES) return {kind: "region", parts};
        // 0.0 is no place of a phrase, but JSON.parse makes it the same as 0
        const counted = !/"(subject|object)"\s*:\s*-?\d+[.eE]/.test(source);
        if (names === ACTION_NAMES) return {kind: "action", parts, counted};
        const problem = `has a row ${number} that is neither {"phrase", "box"} nor {"subject", "action", "object"}; `
            + "correct it";
        return {kind: "unknown", problem};
    }

    function boxJson(value) {
        const box = isObject(value) && "box" in value ? value.box : value;
        const phrase = typeof value?.phrase === "string" ? oneLine(value.phrase) : "";
        return {kind: "region", parts: {phrase, box}};
    }

    const KINDS = {
        layout: {
            line: layoutLine, json: layoutJson, named: true, example: "a ball: 0 0 0.5 1",
            list: "rows, each with a phrase and a box or with subject, action and object"
        },
        region: {
            line: boxLine, json: boxJson, named: false, example: "0 0 0.5 1",
            list: "boxes, each with four numbers from 0 to 1 (x0, y0, x1, y1)"
        }
    };

    // ---- what a row may say ----

    function check(row, name, regions, of) {
        const wrong = [];
        if (row.kind === "region") {
            row.phrase = of.named ? words(row.parts.phrase, name, "phrase", wrong) : row.parts.phrase;
            row.box = boxOf(row.parts.box, name, wrong);
        } else if (row.kind === "action") {
            row.subject = placeOf(row, "subject", name, regions, wrong);
            row.object = placeOf(row, "object", name, regions, wrong);
            row.action = words(row.parts.action, name, "action", wrong);
        }
        if (wrong.length) row.problem = wrong[0];
    }

    function words(value, name, part, wrong) {
        const text = typeof value === "string" ? strip(value) : "";
        if (!text) wrong.push(`has a ${name} without words for its ${part}; write some`);
        return text || null;
    }

    function boxOf(value, name, wrong) {
        const box = Array.isArray(value) ? value : [];
        if (box.length !== 4 || !box.every(side => typeof side === "number" && side >= 0 && side <= 1)) {
            wrong.push(`has a ${name} whose box is not four numbers from 0 to 1 (x0, y0, x1, y1); correct it`);
            return null;
        }
        if (box[0] >= box[2] || box[1] >= box[3]) {
            wrong.push(`has a ${name} whose box is empty: x0 must be less than x1 and y0 less than y1; correct it`);
            return null;
        }
        return box;
    }

    function placeOf(row, end, name, regions, wrong) {
        let place = row.parts[end];
        if (typeof place === "string") {
            const first = regions.findIndex(region => region.phrase === place);
            if (first >= 0) return first;
            if (!PLACE.test(place)) {
                wrong.push(`has a ${name} whose ${end} is a phrase that no row has; correct it`);
                return null;
            }
            place = Number(place);
        }
        if (!Number.isInteger(place) || row.counted === false || place < 0 || place >= regions.length) {
            wrong.push(`has a ${name} whose ${end} is not the number of a phrase, counted from 0; correct it`);
            return null;
        }
        return place;
    }

    // ---- writing ----

    // The text of rows, or null where these cannot be said: words may look like another row, and a row that cannot be
    // read stays as it was written. A row without its source is written anew.
    function write(rows, form, kind = "layout") {
        const only = form === "json" || rows.some(row => row.problem);
        const forms = only ? [form] : ["lines", "json"];
        const regions = rows.filter(row => row.kind === "region");
        for (const wanted of forms) {
            for (const anew of [row => !row.source, row => !row.source || row.kind === "action", () => true]) {
                const sources = rows.map(row => anew(row) && !row.problem ? source(row, regions, wanted) : row.source);
                const text = wanted === "json" ? jsonOf(sources) : sources.join("\n");
                if (same(read(text, kind).rows, rows)) return text;
            }
        }
        return null;
    }

    function jsonOf(sources) {
        return sources.length ? `[\n  ${sources.join(",\n  ")}\n]` : "";
    }

    function source(row, regions, form) {
        const bare = row.kind === "region" && !row.phrase;
        if (bare) return form === "json" ? jsonValue(row.box) : row.box.join(" ");
        if (form === "json") {
            const names = row.kind === "region" ? ["phrase", "box"] : ["subject", "action", "object"];
            return `{${names.map(name => `"${name}": ${jsonValue(row[name])}`).join(", ")}}`;
        }
        if (row.kind === "region") return `${row.phrase}: ${row.box.join(" ")}`;
        return `${endOf(row.subject, regions)} > ${row.action} > ${endOf(row.object, regions)}`;
    }

    function jsonValue(value) {
        return Array.isArray(value) ? `[${value.join(", ")}]` : JSON.stringify(value);
    }

    // A phrase means the first box that has it.
    function endOf(number, regions) {
        const {phrase} = regions[number];
        return regions.findIndex(region => region.phrase === phrase) === number ? phrase : String(number);
    }

    function same(written, rows) {
        return written.length === rows.length && written.every((row, n) => rows[n].problem
            ? row.source === rows[n].source : meaning(row) === meaning(rows[n]));
    }

    function meaning(row) {
        return JSON.stringify(row.kind === "region" ? [row.phrase, row.box] : [row.subject, row.action, row.object]);
    }

    amdm.text = {MOST_ROWS, NAMES, clipped, oneLine, read, write};
})();
