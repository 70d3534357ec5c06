// The editor of one layout or region: what is selected, how its text changes, and its keys.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const NEW = "thing";
    const ADDED = [0.35, 0.35, 0.65, 0.65];
    const BESIDE = 0.03;
    const NUDGE = 0.01;
    const FAR = 0.1;
    const ARROWS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};

    // regions, actions: rows of the text (layout_text.js). selected: {kind: "region" or "action", index} or null.
    // pending: an action without its verb, {subject, object}. mode: null (move what is pressed, draw where nothing is),
    // "draw" (draw over boxes too) or "action"; from: the box that an action begins at. ghost, pointer: a drag's.
    class Editor {
        // page: what it does with the page around it: write(text) into the field, mark(from, to) there; pictures: the
        // kinds that there are of "gallery" and "img2img", and picture(kind): the address of one, or ""; kind: "layout",
        // or "region", whose boxes have neither phrases nor actions to be typed.
        constructor(page) {
            this.page = page;
            this.room = {};
            this.history = null;
            this.selected = this.pending = this.ghost = this.pointer = this.from = this.mode = null;
            // JSON stays JSON, and lines stay lines
            this.form = "lines";
            this.notice = "";
            this.canvas = new amdm.Canvas(amdm.text.NAMES[page.kind]);
            this.view = new amdm.View(this);
            this.view.root.addEventListener("keydown", event => this.key(event));
            this.canvas.element.addEventListener("focusin", event => this.focused(event));
            new amdm.Pointer(this);
            this.read("");
        }

        // ---- the text ----

        // The field has this text now. tag: see layout_history.js.
        show(text, tag = null) {
            if (this.history === null) this.history = new amdm.History(text);
            this.history.record(text, tag);
            this.notice = "";
            this.form = amdm.text.read(text, this.page.kind).form;
            this.read(text);
        }

        get named() {
            return this.page.kind === "layout";
        }

        read(text) {
            this.state = amdm.text.read(text, this.page.kind);
            this.regions = this.state.rows.filter(row => row.kind === "region");
            this.actions = this.state.rows.filter(row => row.kind === "action");
            const drawn = n => Boolean(this.regions[n]?.box);
            if (this.pending && !(drawn(this.pending.subject) && drawn(this.pending.object))) this.pending = null;
            if (this.from !== null && !drawn(this.from)) this.from = null;
            if (this.selected && !this.chosen()) this.selected = null;
            this.render();
        }

        // Puts rows into the field. Returns false where no text says them.
        change(rows, tag = null) {
            const text = this.state.locked ? null : amdm.text.write(rows, this.form, this.page.kind);
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
            this.notice = "";
            const before = this.history.text;
            const text = this.history[step]();
            if (text !== before) this.page.write(text);
            this.read(text);
        }

        // ---- changes ----

        setBox(n, box, tag) {
            if (this.regions[n].box.join() !== box.join()) this.replace(this.regions[n], {box}, tag);
        }

        replace(old, changes, tag) {
            this.change(this.state.rows.map(row => row === old ? {...row, ...changes, source: null} : row), tag);
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
            if (!this.named) return "";
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
            const {selected, pending} = this;
            this.select(null);
            // an action that has no verb yet is in no row
            if (selected && !pending) this.change(this.without(selected));
            this.canvas.focus(null);
        }

        // The rows without an action, or without a region and its actions; the others name the same regions as before.
        without({kind, index}) {
            const {rows} = this.state;
            if (kind === "action") return rows.filter(row => row !== this.actions[index]);
            const later = end => end !== null && end > index ? end - 1 : end;
            const itself = row => row === this.regions[index];
            const its = row => row.kind === "action" && [row.subject, row.object].includes(index);
            return rows.filter(row => !itself(row) && !its(row)).map(
                row => row.kind === "action" ? {...row, subject: later(row.subject), object: later(row.object)} : row
            );
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
            const by = far ? FAR : NUDGE;
            const {box} = this.region();
            const [, , x1, y1] = box;
            const changed = resize
                ? amdm.boxes.resized(box, (dx ? "e" : "") + (dy ? "s" : ""), [x1 + dx * by, y1 + dy * by])
                : amdm.boxes.moved(box, dx * by, dy * by);
            this.setBox(this.selected.index, changed, `nudge ${this.selected.index}`);
        }

        // Words were typed for what is selected, or for the action that is being made.
        typed(words) {
            if (!words) return;
            if (this.pending) {
                const {pending} = this;
                this.pending = null;
                this.selected = {kind: "action", index: this.actions.length};
                if (this.change([...this.state.rows, {kind: "action", action: words, ...pending}], "typing")) return;
                this.selected = null;
                this.pending = pending;
            } else if (this.chosen()) {
                const part = this.selected.kind === "region" ? "phrase" : "action";
                this.replace(this.chosen(), {[part]: words}, "typing");
            }
        }

        // The line for words was left.
        left() {
            this.history?.pause();
            this.render();
        }

        // Takes a text of this or of another tool.
        take(source) {
            const {text, problem, left} = amdm.imports.read(source);
            if (!problem) {
                this.put(text);
                this.view.openImport(false);
            }
            this.notice = problem || (left ? `${left} of its things have no box and were left out.` : "");
            this.render();
        }

        // ---- selection and modes ----

        chosen() {
            const {selected} = this;
            return selected ? {region: this.regions, action: this.actions}[selected.kind][selected.index] : null;
        }

        region() {
            return this.selected?.kind === "region" && this.chosen()?.box ? this.chosen() : null;
        }

        select(selected) {
            const same = selected?.kind === this.selected?.kind && selected?.index === this.selected?.index;
            if (same && !this.pending) return;
            this.pending = null;
            this.selected = selected;
            this.history?.pause();
            this.render();
        }

        setMode(mode) {
            const possible = mode !== "action" || this.regions.length > 1;
            this.mode = possible ? mode : null;
            this.from = null;
            this.notice = possible ? "" : "An action needs two boxes: draw them first.";
            this.render();
        }

        setRoom(room) {
            if (JSON.stringify(room) === JSON.stringify(this.room)) return;
            this.room = room;
            this.render();
        }

        render() {
            const {regions, actions, selected, pending, from, ghost, pointer, mode} = this;
            this.canvas.draw({regions, actions, selected, pending, from, ghost, pointer});
            this.canvas.element.classList.toggle("amdm-drawing", mode !== null);
            this.view.render();
        }

        // ---- buttons and keys ----

        press(name) {
            if (name === "draw" || name === "action") {
                this.setMode(this.mode === name ? null : name);
            } else if (name === "add") {
                this.add(ADDED);
                this.view.focusWords();
            } else if (name === "undo" || name === "redo") {
                this.undo(name);
            } else if (name === "duplicate") {
                this.duplicate();
            } else {
                this.remove();
            }
        }

        focused({target}) {
            const {region, action} = target.dataset;
            if (region !== undefined) this.select({kind: "region", index: Number(region)});
            else if (Number(action) >= 0) this.select({kind: "action", index: Number(action)});
        }

        key(event) {
            // the field of the import has its own undo
            const inImport = event.target === this.view.imported && event.key !== "Escape";
            if (!inImport && this.shortcut(event)) {
                // the page has its own keys: Escape ends a picture in some WebUIs
                event.preventDefault();
                event.stopPropagation();
            }
        }

        // Does what a key is for, and returns whether it is for anything.
        shortcut(event) {
            const {key, shiftKey, altKey, target} = event;
            const control = event.ctrlKey || event.metaKey;
            const letter = control ? key.toLowerCase() : "";
            if (altKey) return false;
            if (letter === "z") return this.did(() => this.undo(shiftKey ? "redo" : "undo"));
            if (letter === "y") return this.did(() => this.undo("redo"));
            if (key === "Escape") return this.escape();
            if (target === this.view.words && key === "Enter" && !control) {
                return this.did(() => this.canvas.focus(this.selected));
            }
            if (!this.canvas.element.contains(target)) return false;
            if (ARROWS[key] && this.region()) return this.did(() => this.nudge(ARROWS[key], shiftKey, control));
            if (letter === "d") return this.did(() => this.duplicate());
            if (control || !this.selected) return false;
            if (key === "Delete" || key === "Backspace") return this.did(() => this.remove());
            if (key === "Enter" && this.mode === "action" && this.region()) return this.did(() => this.linkByKey());
            if (key === "Enter" && this.named) return this.did(() => this.view.focusWords());
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
                this.view.focusWords();
            }
        }

        // Leaves the innermost thing that can be left; false where there is none. The large view is left at once.
        escape() {
            const {view} = this;
            if (this.mode) return this.did(() => this.setMode(null));
            if (view.dialog.open && view.importer.hidden && !this.pending) return this.did(() => view.dialog.close());
            if (this.pending || this.selected) {
                this.select(null);
                this.canvas.focus(null);
                return true;
            }
            return !view.importer.hidden && this.did(() => view.openImport(false));
        }
    }

    amdm.Editor = Editor;
})();
