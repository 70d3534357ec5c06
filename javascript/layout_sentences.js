// The words in which lib_amdm/errors.py quotes what it was given: Python's blanks, numbers and quotation marks, short.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const SHORT = 80;
    const LONGEST = 500;
    const CUT = "...";
    const MOST_LEVELS = 6;
    const MOST_ITEMS = 6;
    const MOST_NAMES = 4;
    // Python and JavaScript do not agree on what is blank
    const BLANK = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
    const OUTER_BLANKS = new RegExp(`^[${BLANK}]+|[${BLANK}]+$`, "g");
    const BLANKS = new RegExp(`[${BLANK}]+`, "g");
    const UNPRINTABLE = /[\p{C}\p{Zl}\p{Zp}\p{Zs}]/u;
    const NAMES = {layout: "Layout", region: "Region"};
    const ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"};

    function strip(text) {
        return text.replace(OUTER_BLANKS, "");
    }

    function oneLine(text) {
        return strip(text).replace(BLANKS, " ");
    }

    function clipped(text, limit = SHORT) {
        const letters = Array.from(text);
        if (letters.length <= limit) return text;
        const tail = Math.floor((limit - CUT.length) * 3 / 5);
        const [start, end] = [letters.slice(0, limit - CUT.length - tail), letters.slice(letters.length - tail)];
        return start.join("") + CUT + end.join("");
    }

    function sentence(text) {
        return clipped(oneLine(text).replace(/\p{Surrogate}/gu, "?"), LONGEST);
    }

    function short(value) {
        return clipped(oneLine(written(value, MOST_LEVELS)));
    }

    function written(value, level) {
        if (value === null || value === undefined) return "None";
        if (typeof value === "boolean") return value ? "True" : "False";
        if (typeof value === "number") return Number.isInteger(value) ? String(value) : number(value);
        if (value instanceof Float) return number(value.value);
        if (typeof value === "string") return quotedShort(value);
        if (Array.isArray(value)) {
            if (level <= 0) return value.length ? `[${CUT}]` : "[]";
            const parts = value.slice(0, MOST_ITEMS).map(each => written(each, level - 1));
            return `[${[...parts, ...(value.length > MOST_ITEMS ? [CUT] : [])].join(", ")}]`;
        }
        const names = Object.keys(value);
        if (!names.length || level <= 0) return names.length ? `{${CUT}}` : "{}";
        const parts = names.slice(0, MOST_NAMES).map(
            name => `${written(name, level - 1)}: ${written(value[name], level - 1)}`
        );
        return `{${[...parts, ...(names.length > MOST_NAMES ? [CUT] : [])].join(", ")}}`;
    }

    // A number that Python has read as a float: 1 is written 1.0.
    class Float {
        constructor(value) {
            this.value = value;
        }
    }

    function number(value) {
        if (Number.isNaN(value)) return "nan";
        if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
        const [digits, exponent] = value.toExponential().split("e");
        const power = Number(exponent);
        if (power < -4 || power >= 16) {
            return `${digits}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
        }
        const decimals = digits.replace(/[-.]/g, "").length - power - 1;
        const plain = Object.is(value, -0) ? "-0" : value.toFixed(Math.max(decimals, 0));
        return plain.includes(".") ? plain : `${plain}.0`;
    }

    function quotedShort(text) {
        const letters = Array.from(text);
        const whole = quoted(letters.slice(0, SHORT));
        if (Array.from(whole).length <= SHORT) return whole;
        const head = Math.floor((SHORT - CUT.length) / 2);
        const tail = SHORT - CUT.length - head;
        const ends = Array.from(quoted([...letters.slice(0, head), ...letters.slice(letters.length - tail)]));
        return ends.slice(0, head).join("") + CUT + ends.slice(ends.length - tail).join("");
    }

    function quoted(letters) {
        const mark = letters.includes("'") && !letters.includes("\"") ? "\"" : "'";
        const escaped = letters.map(letter => {
            if (letter in ESCAPES) return ESCAPES[letter];
            if (letter === mark) return `\\${mark}`;
            if (letter === " " || !UNPRINTABLE.test(letter)) return letter;
            const code = letter.codePointAt(0).toString(16);
            if (code.length <= 2) return `\\x${code.padStart(2, "0")}`;
            return code.length <= 4 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
        });
        return mark + escaped.join("") + mark;
    }

    amdm.sentences = {BLANK, Float, NAMES, clipped, oneLine, sentence, short, strip};
})();
