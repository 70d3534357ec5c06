// What surrounds a layout's or region's canvas: buttons, the line for a phrase or verb, messages, the import, and the large view.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const MOST_MESSAGES = 5;
    const PHRASE = 30;
    const PICTURES = {"": "no picture behind", gallery: "last picture behind", img2img: "img2img picture behind"};
    const BUTTONS = {
        draw: ["Draw", "Draw the next box, also over other boxes"],
        add: ["Add", "Add a box in the middle"],
        action: ["Action", "Draw an action: drag from one box to another, then type the verb"],
        duplicate: ["Copy", "Duplicate the selected box (Ctrl+D)"],
        remove: ["Delete", "Delete what is selected (Delete)"],
        undo: ["Undo", "Undo the last change (Ctrl+Z)"],
        redo: ["Redo", "Redo what was undone (Ctrl+Y)"],
        import: ["Import", "Import a layout from text or JSON, of this or another tool"],
        large: ["Large", "Open the editor large over the page, or close it again"]
    };
    const TOGGLES = ["draw", "action", "import", "large"];
    const OF_LAYOUTS = ["action", "import"];

    // editor: see layout_editor.js. It provides what is shown, and receives what is pressed and typed.
    class View {
        constructor(editor) {
            const {make} = amdm;
            this.editor = editor;
            this.shownMessages = "";
            this.messages = make("div", {className: "amdm-messages", attributes: {role: "status"}});
            this.body = make(
                "div", {className: "amdm-body"},
                this.buildBar(), this.buildImport(), editor.canvas.element, this.buildWords(), this.messages
            );
            const label = {"aria-label": this.name};
            this.dialog = make("dialog", {className: "amdm-large", attributes: label});
            this.dialog.addEventListener("close", () => this.shrink());
            this.root = make("div", {className: "amdm-editor"}, this.body, this.dialog);
            this.root.addEventListener("click", event => this.keepFocus(event.target.closest("button")));
        }

        get name() {
            return `${amdm.text.NAMES[this.editor.page.kind]} editor`;
        }

        // Some browsers give a pressed button no focus, and a button that is disabled or gone has none: the keys that
        // are pressed next are still for the editor.
        keepFocus(button) {
            const active = document.activeElement;
            if (!button || active !== button && active && !active.contains(this.root)) return;
            const stays = button.isConnected && !button.disabled;
            if (stays) button.focus({preventScroll: true});
            else this.editor.canvas.focus(this.editor.selected);
        }

        buildBar() {
            const {make} = amdm;
            this.buttons = {};
            for (const [name, [caption, title]] of Object.entries(BUTTONS)) {
                const pressed = TOGGLES.includes(name) ? {"aria-pressed": "false"} : {};
                const attributes = {"aria-label": title, ...pressed};
                const button = make("button", {type: "button", title, dataset: {do: name}, attributes}, caption);
                button.addEventListener("click", () => this.press(name));
                button.hidden = !this.editor.named && OF_LAYOUTS.includes(name);
                this.buttons[name] = button;
            }
            const behind = "The picture behind the boxes";
            this.behind = make("select", {title: behind, attributes: {"aria-label": behind}});
            for (const value of ["", ...this.editor.page.pictures]) {
                this.behind.append(make("option", {value}, PICTURES[value]));
            }
            this.behind.addEventListener("change", () => this.update());
            const strength = "How strongly the picture behind is seen";
            this.opacity = make("input", {
                type: "range", min: 0, max: 100, value: 60, title: strength, attributes: {"aria-label": strength}
            });
            this.opacity.addEventListener("input", () => this.update());
            const attributes = {role: "toolbar", "aria-label": this.name};
            const bar = make("div", {className: "amdm-bar", attributes}, ...Object.values(this.buttons));
            bar.append(this.behind, this.opacity);
            return bar;
        }

        press(name) {
            if (name === "import") this.openImport(this.importer.hidden);
            else if (name === "large") this.enlarge();
            else this.editor.press(name);
        }

        buildWords() {
            this.words = amdm.make("input", {type: "text", autocomplete: "off", spellcheck: false});
            this.words.addEventListener("input", () => this.editor.typed(amdm.text.oneLine(this.words.value)));
            this.words.addEventListener("blur", () => this.editor.left());
            this.caption = amdm.make("span");
            const {named} = this.editor;
            this.line = amdm.make("label", {className: "amdm-words", hidden: !named}, this.caption, this.words);
            return this.line;
        }

        focusWords() {
            this.render();
            this.words.focus({preventScroll: true});
            this.words.select();
        }

        // ---- what is shown ----

        render() {
            const {mode, selected, pending, history, state} = this.editor;
            const {buttons} = this;
            for (const name of ["draw", "action"]) buttons[name].setAttribute("aria-pressed", String(mode === name));
            for (const name of ["draw", "add", "action"]) buttons[name].disabled = state.locked;
            buttons.duplicate.disabled = !this.editor.region();
            buttons.remove.disabled = !selected && !pending;
            buttons.undo.disabled = !history?.past.length;
            buttons.redo.disabled = !history?.future.length;
            this.renderWords();
            this.renderMessages();
        }

        renderWords() {
            const {pending, selected} = this.editor;
            const row = this.editor.chosen();
            const ends = pending || (selected?.kind === "action" ? row : null);
            const [subject, object] = ends ? [this.phrase(ends.subject), this.phrase(ends.object)] : [];
            this.line.classList.toggle("amdm-idle", !row && !pending);
            this.words.disabled = !row && !pending;
            amdm.say(this.caption, ends ? `${subject} … ${object}` : "Phrase");
            const title = ends ? `What ${subject} does to ${object}` : "The words for the selected box";
            if (this.words.title !== title) {
                this.words.title = title;
                this.words.setAttribute("aria-label", title);
            }
            const idle = row ? "" : "select a box or an action";
            this.words.placeholder = pending ? "type a verb, such as kicking" : idle;
            const value = pending ? "" : (row?.phrase ?? row?.action) || "";
            // what is being typed may end in a blank, or be empty for a moment
            const typed = amdm.text.oneLine(this.words.value);
            const typing = document.activeElement === this.words && (typed === value || !typed);
            if (!typing && this.words.value !== value) this.words.value = value;
        }

        phrase(n) {
            return amdm.text.clipped(this.editor.regions[n]?.phrase || "?", PHRASE);
        }

        renderMessages() {
            const lines = [...this.wrong(), ...this.hints()];
            const shown = JSON.stringify(lines);
            if (shown === this.shownMessages) return;
            this.shownMessages = shown;
            this.messages.replaceChildren(...lines.map(line => this.message(line)));
        }

        message({text, from, to, convert}) {
            const {make} = amdm;
            if (from === undefined && !convert) return make("div", {}, text);
            const title = convert ? "Convert it" : "Show this row in the text";
            const button = make("button", {type: "button", title}, text);
            button.addEventListener("click", () => {
                if (convert) this.editor.put(convert);
                else this.editor.page.mark(from, to);
            });
            return make("div", {className: convert ? "" : "amdm-wrong"}, button);
        }

        // What is wrong with the text, or more than the adapter takes.
        wrong() {
            const {state, room, regions, actions, history} = this.editor;
            const {problems} = state;
            const {kind} = this.editor.page;
            const beyond = () => this.editor.named ? amdm.limits.beyond(room, regions, actions) : [];
            if (!problems.length) return beyond().map(text => ({text}));
            const lines = problems.slice(0, MOST_MESSAGES).map(
                ({message, from, to}) => ({text: `The ${kind} ${message}.`, from, to})
            );
            const more = problems.length - MOST_MESSAGES;
            if (more > 0) lines.push({text: `Rows that are wrong besides these: ${more}.`});
            const foreign = this.editor.named && state.form === "json" && history;
            const converted = foreign ? amdm.imports.read(history.text).text : "";
            if (converted && converted !== history.text) {
                lines.push({text: "This is a layout of another tool: press here to convert it.", convert: converted});
            }
            return lines;
        }

        hints() {
            const {mode, from, notice} = this.editor;
            const hints = {
                draw: "Drag to draw a box.",
                action: from === null
                    ? "Drag from the box that does something to the one that it is done to."
                    : "Now press the box that it is done to."
            };
            return [hints[mode], notice].filter(Boolean).map(text => ({text}));
        }

        // What may have changed on the page: the picture behind.
        update() {
            const {picture} = this.editor.canvas;
            const source = this.behind.value ? this.editor.page.picture(this.behind.value) : "";
            if ((picture.getAttribute("src") || "") !== source) {
                if (source) picture.src = source;
                else picture.removeAttribute("src");
            }
            picture.hidden = !source;
            picture.style.opacity = String(this.opacity.value / 100);
            this.opacity.disabled = !source;
        }

        // The picture's width divided by its height.
        setAspect(aspect) {
            const value = String(Math.round(aspect * 1e4) / 1e4);
            const {style} = this.root;
            if (style.getPropertyValue("--amdm-aspect") !== value) style.setProperty("--amdm-aspect", value);
        }

        // ---- large ----

        enlarge() {
            if (this.dialog.open) {
                this.dialog.close();
                return;
            }
            this.dialog.append(this.body);
            this.dialog.showModal();
            this.sized();
        }

        shrink() {
            this.root.prepend(this.body);
            this.sized();
        }

        sized() {
            const {large} = this.buttons;
            large.setAttribute("aria-pressed", String(this.dialog.open));
            amdm.say(large, this.dialog.open ? "Close" : BUTTONS.large[0]);
            large.focus();
        }

        // ---- import ----

        buildImport() {
            const {make} = amdm;
            this.imported = make("textarea", {
                rows: 4, attributes: {"aria-label": "The layout to import"},
                placeholder: "Paste a layout, or JSON: phrases with boxes [y1, x1, y2, x2] of 0 to 1000, or x, y, w, h "
                    + "of 0 to 1"
            });
            const replace = "Replace the current layout with this one";
            const take = make("button", {type: "button", title: replace, dataset: {do: "take"}}, "Take");
            take.addEventListener("click", () => this.editor.take(this.imported.value));
            const file = make("input", {
                type: "file", accept: ".json,.txt", title: "Read a file", attributes: {"aria-label": "Read a file"}
            });
            file.addEventListener("change", async() => {
                if (file.files[0]) this.imported.value = await file.files[0].text();
                file.value = "";
            });
            this.importer = make("div", {className: "amdm-import", hidden: true}, this.imported, take, file);
            return this.importer;
        }

        openImport(open) {
            this.importer.hidden = !open;
            this.buttons.import.setAttribute("aria-pressed", String(open));
            this.imported.value = "";
            if (open) this.imported.focus();
        }
    }

    amdm.View = View;
})();
