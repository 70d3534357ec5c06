// A line in the panel that says what AMDM ran in the last picture, as that picture's own infotext has it.
(() => {
    "use strict";

    const PLACE = ".amdm-ran";
    /** So begins an infotext's last line; what is above it the user has written. */
    const SETTINGS = "Steps: ";
    const PAIR = /([^:,"]+): ("(?:[^"\\]|\\.)*"|[^,]*)/g;
    const KEY = "AMDM ran";
    const EVERY = 500;

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);

    /** What ran, in an infotext; "" where AMDM did not run. */
    function ran(infotext) {
        const settings = infotext.split("\n").findLast((line) => line.startsWith(SETTINGS)) ?? "";
        const pair = [...settings.matchAll(PAIR)].find((match) => match[1].trim() === KEY);
        if (!pair) return "";
        // the WebUI quotes a value that has commas
        return pair[2].startsWith('"') ? JSON.parse(pair[2]) : pair[2];
    }

    function show(place) {
        const info = root().querySelector(`#html_info_${place.dataset.tab}`);
        const line = info ? ran(info.textContent) : "";
        if (place.textContent !== line) place.textContent = line;
    }

    // the WebUI puts a picture's infotext on the page without an event
    setInterval(() => root().querySelectorAll(PLACE).forEach(show), EVERY);
})();
