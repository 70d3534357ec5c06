// Finds the fields of layouts and regions on the page, puts an editor beside each, and keeps the two in step. The field's text is
// what counts: it is looked at again and again, because a WebUI that fills it in (infotext, example, another tab)
// notifies nobody.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const OFTEN = 60;
    const STILL = 300;
    const PLACE = "amdm-layout";
    const REGION = ".amdm-region";
    const SHARES = ".amdm-shares";
    const TAB = /(?:^|_)(txt2img|img2img)_/;
    // the scripts come in any order
    const NEEDED = ["text", "imports", "limits", "boxes", "History", "Canvas", "Pointer", "View"];
    // a gallery's large picture is what the user looks at; without one its last small picture is the last one drawn
    const GALLERY = [".preview :is(.media-button, .image-button) img", ".preview > img", ".preview img", "img"];
    const editors = new Map();
    const failed = new WeakSet();

    function look() {
        if (document.hidden || !amdm.Editor || NEEDED.some(part => !amdm[part])) return;
        for (const mount of document.getElementsByClassName(PLACE)) {
            if (failed.has(mount)) continue;
            try {
                attend(mount);
            } catch (error) {
                // said once, and not sixteen times a second
                failed.add(mount);
                console.error("AMDM's layout editor:", error);
            }
        }
    }

    function attend(mount) {
        const id = mount.dataset.field;
        const field = document.getElementById(id)?.querySelector("textarea");
        if (!field) return;
        if (!editors.has(id)) editors.set(id, begin(id, mount.dataset.kind || "layout"));
        const one = editors.get(id);
        if (one.field !== field) listen(one, field);
        // gradio makes the place anew when the adapter changes
        if (one.editor.view.root.parentNode !== mount) mount.replaceChildren(one.editor.view.root);
        if (one.text !== field.value) {
            one.text = field.value;
            // letters that are typed one after the other are undone together
            one.editor.show(field.value, one.typed ? "typed into the field" : null);
        }
        one.typed = false;
        const wrong = String(one.editor.state.problems.length > 0);
        if (field.getAttribute("aria-invalid") !== wrong) field.setAttribute("aria-invalid", wrong);
        const {adapter, boxes, actions} = mount.dataset;
        one.editor.setRoom({adapter, boxes, actions});
        showShares(one, mount.closest(REGION)?.querySelector(SHARES));
        leaveField(one);
        one.editor.view.setAspect(aspectOf(one));
        one.editor.view.update();
    }

    // What the page draws of a region lies under its boxes. What it says of boxes that are wrong, the editor says too.
    function showShares(one, place) {
        if (!place) return;
        const drawing = place.querySelector("svg");
        one.editor.canvas.underlay(drawing);
        const beside = Boolean(drawing || one.editor.state.problems.length);
        if (place.classList.contains("amdm-unseen") !== beside) place.classList.toggle("amdm-unseen", beside);
    }

    // The page looks once more at a field that is left: of changes that follow each other fast it loses some.
    function leaveField(one) {
        if (!one.written || Date.now() - one.written < STILL) return;
        one.written = 0;
        one.field.dispatchEvent(new FocusEvent("blur"));
    }

    function listen(one, field) {
        one.field = field;
        field.addEventListener("input", event => {
            one.typed = event.isTrusted;
        });
        field.addEventListener("blur", () => one.editor.history?.pause());
    }

    function begin(id, kind) {
        const one = {tab: TAB.exec(id)?.[1] || "", field: null, text: null, typed: false, written: 0, aspect: 1};
        one.editor = new amdm.Editor({
            kind,
            write(text) {
                one.text = text;
                one.written = Date.now();
                one.field.value = text;
                // gradio takes a text from this event alone
                one.field.dispatchEvent(new Event("input", {bubbles: true}));
            },
            mark(from, to) {
                one.editor.view.dialog.close();
                one.field.focus();
                one.field.setSelectionRange(from, to);
            },
            pictures: one.tab ? ["gallery", "img2img"] : ["gallery"],
            picture: kind => kind === "img2img" ? imageOfImg2img() : galleryOf(one.tab)
        });
        return one;
    }

    // The shape from the tab's sliders; their last one while one of them is empty.
    function aspectOf(one) {
        const [width, height] = ["width", "height"].map(
            side => Number(one.tab && document.querySelector(`#${one.tab}_${side} input`)?.value)
        );
        if (width > 0 && height > 0) one.aspect = width / height;
        return one.aspect;
    }

    function galleryOf(tab) {
        const galleries = tab ? [`#${tab}_gallery`] : ["#with", "#without"];
        for (const gallery of galleries) {
            for (const selector of GALLERY) {
                const pictures = document.querySelectorAll(`${gallery} ${selector}`);
                if (pictures.length) return pictures[pictures.length - 1].src;
            }
        }
        return "";
    }

    function imageOfImg2img() {
        return document.querySelector("#img2img_image img[src]")?.src || "";
    }

    if (!amdm.watch) amdm.watch = setInterval(look, OFTEN);
})();
