// The editor of one layout: what is selected, the changes of its text, its buttons and its keys.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const NEW = "thing";
    const ADDED = [0.35, 0.35, 0.65, 0.65];
    const BESIDE = 0.03;
    const NUDGE = 0.01;
    const FAR = 0.1;
    const MOST_MESSAGES = 5;
    const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
    const PICTURES = {"": "no picture behind", gallery: "last picture behind", img2img: "img2img picture behind"};

    class Editor {
        // page: what it does with the page around it: write(text) into the field, mark(from, to) there; pictures: the kinds
        // that there are of "gallery" and "img2img", and picture(kind): the address of one, or "".
        constructor(page) {
            this.page = page;
            this.room = {};
            this.history = null;
            this.selected = this.pending = this.ghost = this.pointer = this.from = null;
            this.mode = null;
            // JSON stays JSON, and lines stay lines
            this.form = "lines";
            this.notice = "";
            this.canvas = new amdm.Canvas();
            this.build();
            new amdm.Pointer(this);
            this.read("");
        }

        // ---- the text ----

        // The field has this text now. tag: see layout_history.js.
        show(text, tag = null) {
            if (this.history === null) this.history = new amdm.History(text);
            this.history.record(text, tag);
            this.notice = "";
            this.form = amdm.text.read(text).form;
            this.read(text);
        }

        read(text) {
            this.state = amdm.text.read(text);
            this.regions = this.state.rows.filter(row => row.kind === "region");
            this.actions = this.state.rows.filter(row => row.kind === "action");
            if (this.pending && !this.regions[Math.max(this.pending.subject, this.pending.object)]) this.pending = null;
            if (this.from !== null && !this.regions[this.from]?.box) this.from = null;
            const there = {region: this.regions, action: this.actions}[this.selected?.kind];
            if (this.selected && !there?.[this.selected.index]) this.selected = null;
            this.render();
        }

        // Puts rows into the field. Returns false where no text says them.
        change(rows, tag = null) {
            const text = this.state.locked ? null : amdm.text.write(rows, this.form);
            if (text === null) {
                this.notice = "This cannot be written beside rows that are wrong; correct these first.";
                this.render();
                return false;
            }
            this.put(text, tag);
            return true;
        }

        put(text, tag = null) {
            this.notice = "";
            this.history.record(text, tag);
            this.page.write(text);
            this.read(text);
        }

        undo(step) {
            this.pending = null;
            const before = this.history.text;
            const text = this.history[step]();
            if (text === before) return;
            this.page.write(text);
            this.read(text);
        }

        // ---- changes ----

        setBox(n, box, tag) {
            if (this.regions[n].box.join() === box.join()) return;
            this.replace(this.regions[n], {box}, tag);
        }

        replace(old, changes, tag) {
            return this.change(this.state.rows.map(row => row === old ? {...row, ...changes, source: null} : row), tag);
        }

        add(box, phrase = this.unused()) {
            const {rows} = this.state;
            const last = rows.map(row => row.kind).lastIndexOf("region");
            const at = last < 0 ? rows.length : last + 1;
            this.setMode(null);
            const added = this.change([...rows.slice(0, at), {kind: "region", phrase, box}, ...rows.slice(at)]);
            if (added) this.select({kind: "region", index: this.regions.length - 1});
        }

        // A phrase that no box has yet.
        unused() {
            const taken = new Set(this.regions.map(region => region.phrase));
            let n = 1;
            while (taken.has(n > 1 ? `${NEW} ${n}` : NEW)) n += 1;
            return n > 1 ? `${NEW} ${n}` : NEW;
        }

        duplicate() {
            const region = this.region();
            if (!region) return;
            const {box, phrase} = region;
            const there = amdm.boxes.moved(box, BESIDE, BESIDE);
            this.add(there.join() === box.join() ? amdm.boxes.moved(box, -BESIDE, -BESIDE) : there, phrase);
            this.canvas.focus(this.selected);
        }

        remove() {
            const {selected} = this;
            if (this.pending) {
                this.pending = null;
            } else if (selected?.kind === "action") {
                this.change(this.state.rows.filter(row => row !== this.actions[selected.index]));
            } else if (this.region()) {
                this.change(this.without(selected.index));
            }
            this.select(null);
            this.canvas.focus(null);
        }

        // The rows without a region and its actions; the other actions name the same regions as before.
        without(n) {
            const later = end => end !== null && end > n ? end - 1 : end;
            return this.state.rows
                .filter(row => row !== this.regions[n] && !(row.kind === "action" && (row.subject === n || row.object === n)))
                .map(row => row.kind === "action" ? {...row, subject: later(row.subject), object: later(row.object)} : row);
        }

        // Begins an action, whose verb is typed next; returns whether there is one.
        link(subject, object) {
            this.setMode(null);
            if (object === undefined) {
                this.notice = "An action goes from one box to another.";
                return false;
            }
            this.selected = null;
            this.pending = {subject, object};
            return true;
        }

        nudge([dx, dy], far, resize) {
            const region = this.region();
            if (!region) return;
            const by = far ? FAR : NUDGE;
            const [x0, y0, x1, y1] = region.box;
            const box = resize
                ? amdm.boxes.resized(region.box, (dx ? "e" : "") + (dy ? "s" : ""), [x1 + dx * by, y1 + dy * by])
                : amdm.boxes.moved([x0, y0, x1, y1], dx * by, dy * by);
            this.setBox(this.selected.index, box, `nudge ${this.selected.index}`);
        }

        // ---- selection and modes ----

        region() {
            const found = this.selected?.kind === "region" ? this.regions[this.selected.index] : null;
            return found?.box ? found : null;
        }

        select(selected) {
            const same = selected?.kind === this.selected?.kind && selected?.index === this.selected?.index;
            if (same && !this.pending) return;
            this.pending = null;
            this.selected = selected;
            this.history?.pause();
            this.render();
        }

        // mode: null (move what is pressed, draw where nothing is), "draw" (draw over boxes too) or "action".
        setMode(mode) {
            this.mode = mode;
            this.from = null;
            this.notice = "";
            if (mode === "action" && this.regions.length < 2) {
                this.mode = null;
                this.notice = "An action needs two boxes: draw them first.";
            }
            this.render();
        }

        // ---- what is seen ----

        build() {
            const {make} = amdm;
            const button = (name, caption, title, press, toggle) => {
                const made = make("button", {
                    type: "button", title, dataset: {do: name},
                    attributes: {"aria-label": title, ...(toggle ? {"aria-pressed": "false"} : {})}
                }, caption);
                made.addEventListener("click", press);
                return made;
            };
            const toggle = mode => () => this.setMode(this.mode === mode ? null : mode);
            this.buttons = {
                draw: button("draw", "Draw", "Draw the next box, also over other boxes", toggle("draw"), true),
                add: button("add", "Add", "Add a box in the middle", () => {
                    this.add(ADDED);
                    this.focusWords();
                }),
                action: button("action", "Action", "Draw an action: drag from one box to another, then type the verb", toggle("action"), true),
                duplicate: button("duplicate", "Copy", "Duplicate the selected box (Ctrl+D)", () => this.duplicate()),
                remove: button("remove", "Delete", "Delete what is selected (Delete)", () => this.remove()),
                undo: button("undo", "Undo", "Undo the last change (Ctrl+Z)", () => this.undo("undo")),
                redo: button("redo", "Redo", "Redo what was undone (Ctrl+Y)", () => this.undo("redo")),
                importing: button("import", "Import", "Import a layout from text or JSON, of this or another tool", () => this.openImport(), true),
                large: button("large", "Large", "Open the editor large over the page, or close it again", () => this.enlarge(), true)
            };
            this.behind = make("select", {title: "The picture behind the boxes", attributes: {"aria-label": "The picture behind the boxes"}});
            for (const value of ["", ...this.page.pictures]) this.behind.append(make("option", {value}, PICTURES[value]));
            this.behind.addEventListener("change", () => {
                this.update();
                this.render();
            });
            this.opacity = make("input", {
                type: "range", min: 0, max: 100, value: 60, title: "How strongly the picture behind is seen",
                attributes: {"aria-label": "How strongly the picture behind is seen"}
            });
            this.opacity.addEventListener("input", () => this.update());
            const {draw, add, action, duplicate, remove, undo, redo, importing, large} = this.buttons;
            this.bar = make(
                "div", {className: "amdm-bar", attributes: {role: "toolbar", "aria-label": "Layout editor"}},
                draw, add, action, duplicate, remove, undo, redo, importing, large, this.behind, this.opacity
            );
            this.words = make("input", {type: "text", autocomplete: "off", spellcheck: false});
            this.words.addEventListener("input", () => this.typed());
            this.words.addEventListener("blur", () => {
                this.history?.pause();
                this.render();
            });
            this.caption = make("span", {});
            this.line = make("label", {className: "amdm-words"}, this.caption, this.words);
            this.messages = make("div", {className: "amdm-messages", attributes: {role: "status"}});
            this.body = make("div", {className: "amdm-body"}, this.bar, this.buildImport(), this.canvas.element, this.line, this.messages);
            this.dialog = make("dialog", {className: "amdm-large", attributes: {"aria-label": "Layout editor"}});
            this.dialog.addEventListener("close", () => this.shrink());
            this.root = make("div", {className: "amdm-editor"}, this.body, this.dialog);
            this.root.addEventListener("keydown", event => this.key(event));
            this.canvas.element.addEventListener("focusin", event => this.focused(event));
        }

        render() {
            const {regions, actions, selected, pending, from, ghost, pointer, mode, buttons} = this;
            this.canvas.draw({regions, actions, selected, pending, from, ghost, pointer});
            this.canvas.element.classList.toggle("amdm-drawing", mode !== null);
            for (const name of ["draw", "action"]) buttons[name].setAttribute("aria-pressed", String(mode === name));
            const locked = this.state.locked;
            buttons.draw.disabled = buttons.add.disabled = buttons.action.disabled = locked;
            buttons.duplicate.disabled = !this.region();
            buttons.remove.disabled = !selected && !pending;
            buttons.undo.disabled = !this.history?.past.length;
            buttons.redo.disabled = !this.history?.future.length;
            this.renderWords();
            this.renderMessages();
        }

        renderWords() {
            const {pending} = this;
            const row = this.chosen();
            this.line.classList.toggle("amdm-idle", !row && !pending);
            this.words.disabled = !row && !pending;
            const ends = pending || (this.selected?.kind === "action" ? row : null);
            const told = ends ? `${this.phrase(ends.subject)} … ${this.phrase(ends.object)}` : "Phrase";
            amdm.say(this.caption, told);
            const title = ends ? `What ${this.phrase(ends.subject)} does to ${this.phrase(ends.object)}` : "The words for the selected box";
            if (this.words.title !== title) {
                this.words.title = title;
                this.words.setAttribute("aria-label", title);
            }
            const placeholder = pending ? "type a verb, such as kicking" : row ? "" : "select a box or an action";
            if (this.words.placeholder !== placeholder) this.words.placeholder = placeholder;
            const value = pending ? "" : (row?.phrase ?? row?.action) || "";
            // what is being typed may end in a blank, or be empty for a moment
            const typed = amdm.sentences.oneLine(this.words.value);
            const typing = document.activeElement === this.words && (typed === value || !typed);
            if (!typing && this.words.value !== value) this.words.value = value;
        }

        chosen() {
            const {selected} = this;
            return selected ? {region: this.regions, action: this.actions}[selected.kind][selected.index] : null;
        }

        phrase(n) {
            return amdm.sentences.clipped(this.regions[n]?.phrase || "?", 30);
        }

        renderMessages() {
            const {problems, locked} = this.state;
            const lines = problems.slice(0, MOST_MESSAGES).map(({message, from, to}) => ({text: `The layout ${message}.`, from, to}));
            if (problems.length > MOST_MESSAGES) lines.push({text: `${problems.length - MOST_MESSAGES} more rows are wrong.`});
            const convertible = problems.length && this.state.form === "json" && amdm.imports.read(this.history?.text || "");
            if (convertible && convertible.text && convertible.text !== this.history.text) {
                lines.push({text: "This is a layout of another tool: press here to convert it.", convert: convertible.text});
            }
            if (!problems.length) {
                for (const text of amdm.limits.beyond(this.room, this.regions, this.actions)) lines.push({text});
            }
            if (this.mode === "action") {
                lines.push({text: this.from === null ? "Drag from the box that does something to the one that it is done to." : "Now press the box that it is done to."});
            }
            if (this.mode === "draw") lines.push({text: "Drag to draw a box."});
            if (this.notice) lines.push({text: this.notice});
            const told = JSON.stringify([lines, locked]);
            if (told === this.told) return;
            this.told = told;
            this.messages.replaceChildren(...lines.map(({text, from, to, convert}) => {
                if (from === undefined && !convert) return amdm.make("div", {}, text);
                const pressed = amdm.make("button", {type: "button", title: convert ? "Convert it" : "Show this row in the text"}, text);
                pressed.addEventListener("click", () => convert ? this.put(convert) : this.page.mark(from, to));
                return amdm.make("div", {className: convert ? "" : "amdm-wrong"}, pressed);
            }));
        }

        // What of the page may have changed: the picture behind, its opacity.
        update() {
            const source = this.behind.value ? this.page.picture(this.behind.value) : "";
            const {picture} = this.canvas;
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
            if (this.root.style.getPropertyValue("--amdm-aspect") !== value) this.root.style.setProperty("--amdm-aspect", value);
        }

        setRoom(room) {
            if (JSON.stringify(room) === JSON.stringify(this.room)) return;
            this.room = room;
            this.render();
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
            this.buttons.large.setAttribute("aria-pressed", String(this.dialog.open));
            amdm.say(this.buttons.large, this.dialog.open ? "Close" : "Large");
            this.buttons.large.focus();
        }

        // ---- import ----

        buildImport() {
            const {make} = amdm;
            this.imported = make("textarea", {
                rows: 4, placeholder: "Paste a layout or JSON: phrases with boxes [y1, x1, y2, x2] of 0 to 1000, or x, y, w, h of 0 to 1",
                attributes: {"aria-label": "The layout to import"}
            });
            const take = make("button", {type: "button", title: "Put this layout in the place of the present one", dataset: {do: "take"}}, "Take");
            take.addEventListener("click", () => this.take());
            const file = make("input", {type: "file", accept: ".json,.txt", title: "Read a file", attributes: {"aria-label": "Read a file"}});
            file.addEventListener("change", async() => {
                if (file.files[0]) this.imported.value = await file.files[0].text();
                file.value = "";
            });
            this.importer = make("div", {className: "amdm-import", hidden: true}, this.imported, take, file);
            return this.importer;
        }

        openImport(open = this.importer.hidden) {
            this.importer.hidden = !open;
            this.buttons.importing.setAttribute("aria-pressed", String(open));
            if (open) this.imported.focus();
        }

        take() {
            const {text, problem, left} = amdm.imports.read(this.imported.value);
            if (problem) {
                this.notice = problem;
                this.render();
                return;
            }
            this.put(text);
            this.notice = left ? `${left} of its things have no box and were left out.` : "";
            this.imported.value = "";
            this.openImport(false);
            this.render();
        }

        // ---- keys and words ----

        focusWords() {
            this.render();
            this.words.focus({preventScroll: true});
            this.words.select();
        }

        typed() {
            const words = amdm.sentences.oneLine(this.words.value);
            if (!words) return;
            if (this.pending) {
                const {pending} = this;
                this.pending = null;
                this.selected = {kind: "action", index: this.actions.length};
                if (this.change([...this.state.rows, {kind: "action", action: words, ...pending}], "typing")) return;
                this.selected = null;
                this.pending = pending;
            } else if (this.chosen()) {
                this.replace(this.chosen(), this.selected.kind === "region" ? {phrase: words} : {action: words}, "typing");
            }
        }

        focused({target}) {
            const {region, action} = target.dataset;
            if (region !== undefined) this.select({kind: "region", index: Number(region)});
            else if (action !== undefined && Number(action) >= 0) this.select({kind: "action", index: Number(action)});
        }

        key(event) {
            const writing = event.target.matches("input[type=text], textarea, select, input[type=file]");
            const own = event.target === this.imported && event.key !== "Escape";
            if (!own && this.shortcut(event, writing)) {
                // the page has keys of its own: Escape ends a picture in some WebUIs
                event.preventDefault();
                event.stopPropagation();
            }
        }

        shortcut(event, writing) {
            const {key, shiftKey, altKey} = event;
            const control = event.ctrlKey || event.metaKey;
            if (altKey) return false;
            if (control && !shiftKey && key.toLowerCase() === "z") return this.did(() => this.undo("undo"));
            if (control && (key.toLowerCase() === "y" || (shiftKey && key.toLowerCase() === "z"))) return this.did(() => this.undo("redo"));
            if (key === "Escape") return this.escape();
            if (event.target === this.words && key === "Enter" && !control) return this.did(() => this.canvas.focus(this.selected));
            if (writing || !this.canvas.element.contains(event.target)) return false;
            if (ARROWS[key] && this.region()) return this.did(() => this.nudge(ARROWS[key], shiftKey, control));
            if (control && key.toLowerCase() === "d") return this.did(() => this.duplicate());
            if (control) return false;
            if ((key === "Delete" || key === "Backspace") && this.selected) return this.did(() => this.remove());
            if (key === "Enter" && this.mode === "action" && this.region()) return this.did(() => this.linkByKey());
            if (key === "Enter" && this.selected) return this.did(() => this.focusWords());
            return false;
        }

        did(act) {
            act();
            return true;
        }

        linkByKey() {
            const {index} = this.selected;
            if (this.from === null) {
                this.from = index;
                this.render();
            } else if (this.link(this.from, this.from === index ? undefined : index)) {
                this.focusWords();
            }
        }

        // Leaves the innermost thing that can be left; false where there is none.
        escape() {
            if (this.mode) return this.did(() => this.setMode(null));
            if (this.pending || this.selected) {
                this.select(null);
                this.canvas.focus(null);
                return true;
            }
            if (!this.importer.hidden) return this.did(() => this.openImport(false));
            if (this.dialog.open) return this.did(() => this.dialog.close());
            return false;
        }
    }

    amdm.Editor = Editor;
})();
