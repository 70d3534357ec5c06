// What the panel's folds and tabs hold (lib_amdm/webui/holding.py): the captions of those that hold something are
// marked, and a fold opens once something is filled into it while it is closed. A number that is cleared is its default.
(() => {
    "use strict";

    const PLACE = "amdm-holding";
    const MARK = "amdm-holds";
    const EVERY = 300;
    const read = new WeakMap();
    const before = new Map();

    function contentsOf(place) {
        if (!read.has(place)) {
            const {places, defaults} = place.dataset;
            read.set(place, {places: JSON.parse(places), defaults: JSON.parse(defaults)});
        }
        return read.get(place);
    }

    /** What a control shows, as a text; null where it is not on the page. */
    function shown(id) {
        const control = document.getElementById(id);
        if (!control) return null;
        const chosen = control.querySelector("input[type=radio]:checked");
        if (chosen) return chosen.value;
        const field = control.querySelector("textarea, input:not([type=range], [type=file], [type=radio])");
        if (!field) return control.querySelector("img") ? "a picture" : "";
        return field.type === "checkbox" ? String(field.checked) : field.value;
    }

    function isDefault(value, usual) {
        if (value === null || value === String(usual)) return true;
        const empty = !value.trim();
        return typeof usual === "number" && (empty || Number(value) === usual);
    }

    function inspect() {
        if (document.hidden) return;
        for (const place of document.getElementsByClassName(PLACE)) {
            const {places, defaults} = contentsOf(place);
            for (const one of places) attend(one, defaults);
        }
    }

    function attend({caption, controls, deciding, opens}, defaults) {
        const element = document.querySelector(caption);
        if (!element) return;
        const holds = deciding.some(id => !isDefault(shown(id), defaults[id]));
        if (element.classList.contains(MARK) !== holds) element.classList.toggle(MARK, holds);
        if (!opens) return;
        const values = controls.map(shown);
        const earlier = before.get(caption) || [];
        // a control that comes to the page or leaves it is no change
        const changed = earlier.some((value, n) => ![value, values[n]].includes(null) && value !== values[n]);
        before.set(caption, values);
        // nobody types into a closed fold: this was pasted, sent, or an example's
        if (changed && holds && !element.classList.contains("open")) element.click();
    }

    // gradio puts the least value into a slider's field that is left empty
    function left({target}) {
        if (target.type !== "number" || target.value !== "") return;
        for (const place of document.getElementsByClassName(PLACE)) {
            const {defaults} = contentsOf(place);
            let control = target;
            while (control && !(control.id in defaults)) control = control.parentElement;
            if (!control) continue;
            target.value = String(defaults[control.id]);
            target.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }

    // before gradio's own
    window.addEventListener("blur", left, true);
    setInterval(inspect, EVERY);
})();
