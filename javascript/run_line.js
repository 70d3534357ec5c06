// A line in the panel that says what AMDM ran in the last picture, as that picture's own infotext has it.
(() => {
    "use strict";

    const PLACE = ".amdm-ran";
    const ENTRY = /(?:^|, |\n)AMDM ran: ("(?:[^"\\]|\\.)*"|[^,\n]*)/;
    const EVERY = 500;

    const root = () => (typeof gradioApp === "function" ? gradioApp() : document);

    /** What ran, in an infotext; "" where AMDM did not run. */
    function ran(infotext) {
        const found = ENTRY.exec(infotext);
        if (!found) return "";
        // the WebUI quotes a value that has commas
        return found[1].startsWith('"') ? JSON.parse(found[1]) : found[1];
    }

    function show(place) {
        const info = root().querySelector(`#html_info_${place.dataset.tab}`);
        const line = info ? ran(info.textContent) : "";
        if (place.textContent !== line) place.textContent = line;
    }

    // the WebUI puts a picture's infotext on the page without an event
    setInterval(() => root().querySelectorAll(PLACE).forEach(show), EVERY);
})();
