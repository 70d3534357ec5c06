// The tooltips of tabs, folds and buttons, which the page itself has no place for (lib_amdm/webui/tooltips.py).
(() => {
    "use strict";

    const PLACE = "amdm-tooltips";
    const EVERY = 1000;

    // a WebUI's translations are a table on the page, and it does not look for tooltips that come later
    const translated = text => window.localization?.[text] || text;

    function look() {
        for (const place of document.getElementsByClassName(PLACE)) {
            for (const [selector, text] of Object.entries(JSON.parse(place.dataset.texts))) {
                const element = document.querySelector(selector);
                if (element && !element.title) element.title = translated(text);
            }
        }
    }

    setInterval(look, EVERY);
})();
