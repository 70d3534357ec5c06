// A model alone, drawn by compare, goes from txt2img to img2img with its own settings. The WebUI's buttons send the
// picture with what txt2img's controls say, and those are the settings of all models together.
(() => {
    "use strict";

    const SEND = "#txt2img_send_to_img2img, #txt2img_send_to_inpaint";
    const COMPARES = ["#script_txt2img_amdm_enabled-checkbox input", "#script_txt2img_amdm_compare input"];
    const PASTE = "#img2img_tools #paste";
    /** So begins an infotext's last line; what is above it the user has written. */
    const SETTINGS = "\nSteps: ";
    /** Every picture of several models names one of a slot, and no picture of one model does. */
    const TOGETHER = /, AMDM \d+ checkpoint: /;
    /** What the WebUI does not send if its option is off. */
    const OPTIONAL = {send_seed: /, Seed: \d+/, send_cfg: /, CFG scale: [\d.]+/};
    const EVERY = 100;
    /** A minute: the copy is made by the server, which may be busy. */
    const PATIENCE = 600;
    const AGAIN_AFTER = 3000;
    const ATTEMPTS = 5;

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);
    const isOff = (option) => typeof opts !== "undefined" && opts[option] === false;
    let compared = false;

    /** The infotext of the selected picture for img2img, or "" where the WebUI's own sending is right. */
    function ownSettings() {
        // a picture without a prompt has the last line alone
        const text = `\n${root().querySelector("#html_info_txt2img")?.textContent.trim() ?? ""}`;
        const end = text.lastIndexOf(SETTINGS);
        const line = text.slice(end);
        if (!compared || end < 0 || TOGETHER.test(line)) return "";
        const unsent = Object.keys(OPTIONAL).filter(isOff).map((option) => OPTIONAL[option]);
        // the WebUI sends the picture's own size, which differs from this one after hires fix
        const sent = [/, Size: \d+x\d+/, ...unsent].reduce((left, entry) => left.replace(entry, ""), line);
        return (text.slice(0, end) + sent).slice(1);
    }

    function write(box, text) {
        box.value = text;
        box.dispatchEvent(new Event("input", {bubbles: true}));
    }

    /** Paste once the WebUI has copied txt2img's controls, and with them its prompt over the text in `box`. */
    function pasteAfterCopy(box, text, looks = PATIENCE) {
        if (box.value === text && looks > 0) {
            setTimeout(pasteAfterCopy, EVERY, box, text, looks - 1);
            return;
        }
        write(box, text);
        setTimeout(paste, EVERY, box, text);
    }

    /** Paste the text in `box`, once more if it stays there: a busy WebUI loses requests. */
    function paste(box, text, attempts = ATTEMPTS) {
        if (box.value !== text || attempts === 0) return;
        root().querySelector(PASTE).click();
        setTimeout(paste, AGAIN_AFTER, box, text, attempts - 1);
    }

    function onClick(event) {
        if (event.target.closest("#txt2img_generate")) {
            compared = COMPARES.every((control) => root().querySelector(control)?.checked);
        }
        const box = root().querySelector("#img2img_prompt textarea");
        const text = event.target.closest(SEND) && box ? ownSettings() : "";
        if (!text) return;
        write(box, text);
        pasteAfterCopy(box, text);
    }

    // before the WebUI's own listeners, so that their copy comes after what is written here
    document.addEventListener("click", onClick, true);
})();
