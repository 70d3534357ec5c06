// The WebUI's token counter on the co-models' prompts (lib_amdm/webui/token_counters.py).
(() => {
    "use strict";

    const PLACE = "amdm-tokens";
    const SHOWN = "amdm-count";
    const EVERY = 600;
    const MAIN = /\{(prompt\}|style:)/;
    const seen = new WeakMap();
    const counted = new WeakMap();

    const isOff = () => typeof opts === "object" && opts.disable_token_counters;

    function added(prompt) {
        const counter = document.createElement("span");
        counter.className = SHOWN;
        prompt.append(counter);
        return counter;
    }

    function attend(place) {
        const id = place.dataset.prompt;
        const prompt = document.getElementById(id);
        const box = prompt?.querySelector("textarea");
        if (!box) return;
        const counter = prompt.querySelector(`.${SHOWN}`) || added(prompt);
        const isShown = Boolean(box.value) && !isOff();
        const count = isShown ? place.textContent.trim() : "";
        if (counter.textContent !== count) counter.textContent = count;
        const [, tab, kind] = id.match(/_(txt2img|img2img)_amdm_(prompt|negative_prompt)_/);
        const main = document.querySelector(`#${tab}_${kind.replace("negative", "neg")} textarea`);
        const text = MAIN.test(box.value) ? `${box.value}\n${main?.value}` : box.value;
        // once it has stopped changing
        if (isShown && box.offsetParent && seen.get(box) === text && counted.get(box) !== text) {
            counted.set(box, text);
            document.getElementById(`${id}_count`)?.click();
        }
        seen.set(box, text);
    }

    setInterval(() => {
        if (!document.hidden) [...document.getElementsByClassName(PLACE)].forEach(attend);
    }, EVERY);
})();
