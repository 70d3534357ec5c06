// The text of a layout, read as lib_amdm/layout.py reads it, but row by row: a row that cannot be read does not hide
// the others. And written again, so that only those rows change that were changed.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const MOST_ROWS = 500;
    const PLACE_DIGITS = 9;
    const QUOTATION_MARKS = ["\"\"", "''", "“”", "„“", "„”", "«»", "»«", "‘’", "‚‘", "‹›", "「」"];
    const LINE = /[^\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+/g;
    const REGION_NAMES = "box,phrase";
    const ACTION_NAMES = "action,object,subject";

    // Returns {form, rows, problems}. form: "lines" or "json". rows: in order, each with its source in the text (from,
    // to), and by its kind "region" {phrase, box}, "action" {subject, action, object: numbers of regions} or "unknown";
    // what cannot be used of it is null, and its problem says why. problems: all sentences {message, from, to}, those
    // of rows included. locked: nothing can be made of the text, so that nothing can be drawn into it.
    function read(text) {
        const bare = bareOf(text);
        const start = bare ? text.indexOf(bare) : text.length;
        const json = /^[[{]/.test(bare);
        const found = json ? jsonRows(bare) : {rows: lineRows(bare)};
        const whole = found.problem || (found.rows.length > MOST_ROWS
            ? `has ${found.rows.length} rows, but at most ${MOST_ROWS} are read; remove some` : "");
        const rows = whole ? [] : found.rows;
        for (const row of rows) {
            row.source = bare.slice(row.from, row.to);
            row.from += start;
            row.to += start;
        }
        const regions = rows.filter(row => row.kind === "region");
        // an action may stand before the phrases that it names
        for (const kind of ["region", "action", "unknown"]) {
            rows.forEach((row, n) => row.kind === kind && check(row, `row ${n + 1}`, regions));
        }
        const problems = rows.filter(row => row.problem).map(({problem, from, to}) => ({message: problem, from, to}));
        if (whole) problems.push({message: amdm.sentences.sentence(whole), from: start, to: start + bare.length});
        return {form: json ? "json" : "lines", rows, problems, locked: Boolean(whole)};
    }

    function bareOf(text) {
        const {strip} = amdm.sentences;
        return strip(strip(text).replace(/^\ufeff/, ""));
    }

    // ---- lines ----

    function lineRows(text) {
        const {short, strip} = amdm.sentences;
        const rows = [];
        for (const match of text.matchAll(LINE)) {
            const line = strip(match[0]);
            if (!line) continue;
            const from = match.index + match[0].indexOf(line);
            const place = {from, to: from + line.length};
            const parts = line.split(">");
            const colon = line.lastIndexOf(":");
            if (parts.length === 3) {
                const [subject, action, object] = parts.map(unquoted);
                rows.push({kind: "action", given: {subject, action, object}, ...place});
            } else if (colon >= 0) {
                const given = {phrase: unquoted(line.slice(0, colon)), box: values(line.slice(colon + 1))};
                rows.push({kind: "region", given, ...place});
            } else {
                const problem = `has a row ${rows.length + 1} that reads ${short(line)}, but it must be like `
                    + "a ball: 0 0 0.5 1 or like a boy > kicking > a ball; correct it";
                rows.push({kind: "unknown", problem, ...place});
            }
        }
        return rows;
    }

    function unquoted(part) {
        const {strip} = amdm.sentences;
        const text = strip(part);
        const inner = strip(text.slice(1, -1));
        const [first, last] = [text[0], text[text.length - 1]];
        const marked = Array.from(text).length > 2 && QUOTATION_MARKS.includes(first + last);
        return marked && !inner.includes(first) && !inner.includes(last) ? inner : text;
    }

    function values(text) {
        const {BLANK} = amdm.sentences;
        const outer = /^[ [\]\t]+|[ [\]\t]+$/g;
        return text.replace(outer, "").split(new RegExp(`[${BLANK},]+`)).map(value);
    }

    // A number, or the word itself where Python's float() would refuse it.
    function value(word) {
        const {Float} = amdm.sentences;
        const told = latin(word);
        if (/^[+-]?(inf|infinity|nan)$/i.test(told)) {
            return new Float(/nan/i.test(told) ? NaN : told.startsWith("-") ? -Infinity : Infinity);
        }
        const bare = told.replace(/(\d)_(?=\d)/g, "$1");
        return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(bare) ? new Float(Number(bare)) : word;
    }

    // Digits of all scripts as 0 to 9: each script has its ten in a row.
    function latin(word) {
        return word.replace(/\p{Nd}/gu, digit => {
            let first = digit.codePointAt(0);
            const code = first;
            while (/\p{Nd}/u.test(String.fromCodePoint(first - 1))) first -= 1;
            return String((code - first) % 10);
        });
    }

    // ---- JSON ----

    function jsonRows(text) {
        const {short} = amdm.sentences;
        if (text.startsWith("{")) {
            return {rows: [], problem: refusedAsJson(text) || "must be a list of rows, each with a phrase and a box or "
                + `with subject, action and object, but it is ${short(JSON.parse(text))}; correct it`};
        }
        const {parts, end} = split(text);
        if (end < text.length - 1) {
            return {rows: [], problem: "is not JSON (something follows its end); correct it, or write lines such as "
                + "a ball: 0 0 0.5 1"};
        }
        return {rows: parts.map((place, n) => jsonRow(text.slice(place.from, place.to), place, n + 1))};
    }

    function refusedAsJson(text) {
        try {
            JSON.parse(text);
            return "";
        } catch (error) {
            return `is not JSON (${error.message}); correct it, or write lines such as a ball: 0 0 0.5 1`;
        }
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

    function jsonRow(source, {from, to, open}, number) {
        const {short} = amdm.sentences;
        const place = {from, to};
        let given;
        try {
            given = JSON.parse(source);
            if (open) throw new Error("the list has no end");
        } catch (error) {
            const problem = `has a row ${number} that is not JSON (${error.message}); correct it`;
            return {kind: "unknown", problem, ...place};
        }
        const isObject = given && typeof given === "object" && !Array.isArray(given);
        const names = isObject ? Object.keys(given).sort().join() : "";
        if (names === REGION_NAMES) return {kind: "region", given, ...place};
        // 0.0 is no place of a phrase, but JSON.parse makes it the same as 0
        const counted = !/"(subject|object)"\s*:\s*-?\d+[.eE]/.test(source);
        if (names === ACTION_NAMES) return {kind: "action", given, counted, ...place};
        const problem = `has a row ${number} that is neither {"phrase", "box"} nor {"subject", "action", "object"}: `
            + `${short(given)}; correct it`;
        return {kind: "unknown", problem, ...place};
    }

    // ---- what a row may say ----

    function check(row, name, regions) {
        const wrong = [];
        if (row.kind === "region") {
            row.phrase = words(row.given.phrase, name, "phrase", wrong);
            row.box = boxOf(row.given.box, name, wrong);
        } else if (row.kind === "action") {
            row.subject = placeOf(row, "subject", name, regions, wrong);
            row.object = placeOf(row, "object", name, regions, wrong);
            row.action = words(row.given.action, name, "action", wrong);
        }
        if (wrong.length) row.problem = amdm.sentences.sentence(wrong[0]);
        else if (row.problem) row.problem = amdm.sentences.sentence(row.problem);
    }

    function words(given, name, part, wrong) {
        const found = typeof given === "string" ? amdm.sentences.strip(given) : "";
        if (!found) wrong.push(`has a ${name} without words for its ${part}; write some`);
        return found || null;
    }

    function boxOf(given, name, wrong) {
        const {Float, short} = amdm.sentences;
        const box = Array.isArray(given) ? given.map(each => each instanceof Float ? each.value : each) : [];
        if (box.length !== 4 || !box.every(each => typeof each === "number" && each >= 0 && each <= 1)) {
            wrong.push(`has a ${name} whose box is not four numbers from 0 to 1 (x0, y0, x1, y1): ${short(given)}; `
                + "correct it");
            return null;
        }
        if (box[0] >= box[2] || box[1] >= box[3]) {
            wrong.push(`has a ${name} whose box is empty: x0 must be less than x1 and y0 less than y1, but they are `
                + `${short(given)}; correct it`);
            return null;
        }
        return box;
    }

    function placeOf(row, end, name, regions, wrong) {
        const {clipped, short} = amdm.sentences;
        let given = row.given[end];
        if (typeof given === "string") {
            const found = regions.filter(region => region.phrase === given);
            if (found.length === 1) return regions.indexOf(found[0]);
            if (found.length || !/^\p{Nd}+$/u.test(given) || Array.from(given).length > PLACE_DIGITS) {
                const many = found.length ? "more than one row has" : "no row has";
                wrong.push(`has a ${name} whose ${end} is "${clipped(given)}", a phrase that ${many}; correct it`);
                return null;
            }
            given = Number(latin(given));
        }
        if (!Number.isInteger(given) || row.counted === false || given < 0 || given >= regions.length) {
            wrong.push(`has a ${name} whose ${end} is ${short(given)}, but it must be the number of a phrase, counted `
                + "from 0" + (regions.length ? ` to ${regions.length - 1}` : ", and there is no phrase")
                + "; correct it");
            return null;
        }
        return given;
    }

    // ---- writing ----

    // The text of rows, or null where these cannot be said: words may look like another row, and a row that cannot be
    // read stays as it was written. A row without its source, or with fresh = true, is written anew.
    function write(rows, form) {
        const only = form === "json" || rows.some(row => row.problem);
        const forms = only ? [form] : ["lines", "json"];
        const regions = rows.filter(row => row.kind === "region");
        for (const each of forms) {
            for (const anew of [row => !row.source, row => !row.source || row.kind === "action", () => true]) {
                const sources = rows.map(row => anew(row) && !row.problem ? source(row, regions, each) : row.source);
                const text = each === "json" ? jsonOf(sources) : sources.join("\n");
                if (same(read(text).rows, rows)) return text;
            }
        }
        return null;
    }

    function jsonOf(sources) {
        return sources.length ? `[\n  ${sources.join(",\n  ")}\n]` : "";
    }

    function source(row, regions, form) {
        if (form === "json") {
            const names = row.kind === "region" ? ["phrase", "box"] : ["subject", "action", "object"];
            return `{${names.map(name => `"${name}": ${jsonValue(row[name])}`).join(", ")}}`;
        }
        if (row.kind === "region") return `${row.phrase}: ${row.box.join(" ")}`;
        return `${endOf(row.subject, regions)} > ${row.action} > ${endOf(row.object, regions)}`;
    }

    function jsonValue(given) {
        return Array.isArray(given) ? `[${given.join(", ")}]` : JSON.stringify(given);
    }

    function endOf(number, regions) {
        const {phrase} = regions[number];
        return regions.filter(region => region.phrase === phrase).length === 1 ? phrase : String(number);
    }

    function same(found, rows) {
        return found.length === rows.length && found.every((row, n) => rows[n].problem
            ? row.source === rows[n].source : meaning(row) === meaning(rows[n]));
    }

    function meaning(row) {
        return JSON.stringify(row.kind === "region" ? [row.phrase, row.box] : [row.subject, row.action, row.object]);
    }

    amdm.text = {read, write};
})();
