// What the pointer does on a layout's canvas: draws, moves and resizes boxes, and drags actions from one to another.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const STEP = 100;
    const LEAST = 1 / STEP;
    const STILL = {mouse: 3, touch: 8, pen: 5};
    let drags = 0;

    function snapped(share) {
        return Math.round(share * STEP) / STEP;
    }

    // What adding leaves of a decimal number must not show in the text: 0.1 + 0.2 is 0.3.
    function round(share) {
        return Math.round(share * 1e6) / 1e6;
    }

    // A box moved so that its left and top edges are at whole percents, where they moved at all.
    function moved([x0, y0, x1, y1], dx, dy) {
        const [left, right] = shifted(x0, x1, dx);
        const [top, bottom] = shifted(y0, y1, dy);
        return [left, top, right, bottom];
    }

    function shifted(from, to, by) {
        if (Math.abs(by) < LEAST / 2) return [from, to];
        const start = Math.min(Math.max(snapped(from + by), 0), round(1 - (to - from)));
        return [start, Math.min(round(start + (to - from)), 1)];
    }

    // A box with one or two edges at a point; an edge does not pass the opposite one.
    function resized([x0, y0, x1, y1], side, [x, y]) {
        if (side.includes("w")) x0 = Math.max(Math.min(snapped(x), round(x1 - LEAST)), 0);
        if (side.includes("e")) x1 = Math.min(Math.max(snapped(x), round(x0 + LEAST)), 1);
        if (side.includes("n")) y0 = Math.max(Math.min(snapped(y), round(y1 - LEAST)), 0);
        if (side.includes("s")) y1 = Math.min(Math.max(snapped(y), round(y0 + LEAST)), 1);
        return [x0, y0, x1, y1];
    }

    function spanned([ax, ay], [bx, by]) {
        return [Math.min(ax, bx), Math.min(ay, by), Math.max(ax, bx), Math.max(ay, by)].map(snapped);
    }

    // editor: see layout_editor.js; its canvas's events end here.
    class Pointer {
        constructor(editor) {
            this.editor = editor;
            this.drag = null;
            const {element} = editor.canvas;
            element.addEventListener("pointerdown", event => this.down(event));
            element.addEventListener("pointermove", event => this.move(event));
            element.addEventListener("pointerup", event => this.up(event));
            element.addEventListener("pointercancel", event => this.cancel(event));
        }

        down(event) {
            const {editor} = this;
            if (this.drag || !event.isPrimary || event.button !== 0 || editor.state.locked) return;
            // no text is selected; the focus is moved by hand instead
            event.preventDefault();
            editor.canvas.element.setPointerCapture(event.pointerId);
            const start = editor.canvas.at(event);
            this.drag = {
                id: event.pointerId, start, pixels: [event.clientX, event.clientY], pointerType: event.pointerType,
                still: STILL[event.pointerType] || STILL.mouse, moved: false, tag: `drag ${drags += 1}`,
                ...this.intention(event, start)
            };
            editor.render();
        }

        // What a press begins, by what it is on and by the mode.
        intention(event, start) {
            const {editor} = this;
            const {regions, selected} = editor;
            const hits = editor.canvas.hits(start, regions);
            const {handle, action} = event.target.dataset;
            if (editor.mode === "action") return {kind: "link", hits, from: hits[0] ?? null};
            if (handle && selected?.kind === "region") {
                return {kind: "resize", handle, region: selected.index, box: regions[selected.index].box};
            }
            if (action !== undefined && Number(action) >= 0) {
                editor.select({kind: "action", index: Number(action)});
                return {kind: "none"};
            }
            if (editor.mode === "draw" || !hits.length) return {kind: "draw", hits};
            const again = selected?.kind === "region" && hits.includes(selected.index);
            const region = again ? selected.index : hits[0];
            editor.select({kind: "region", index: region});
            return {kind: "move", hits, again, region, box: regions[region].box};
        }

        move(event) {
            const {drag, editor} = this;
            if (!drag || event.pointerId !== drag.id) return;
            const [x, y] = drag.pixels;
            drag.moved = drag.moved || Math.hypot(event.clientX - x, event.clientY - y) > drag.still;
            if (!drag.moved) return;
            const point = editor.canvas.at(event);
            if (drag.kind === "draw") {
                editor.ghost = spanned(drag.start, point);
                editor.render();
            } else if (drag.kind === "link") {
                editor.from = drag.from;
                editor.pointer = point;
                editor.render();
            } else if (drag.kind === "move") {
                const [dx, dy] = [point[0] - drag.start[0], point[1] - drag.start[1]];
                editor.setBox(drag.region, moved(drag.box, dx, dy), drag.tag);
            } else if (drag.kind === "resize") {
                editor.setBox(drag.region, resized(drag.box, drag.handle, point), drag.tag);
            }
        }

        up(event) {
            const {drag, editor} = this;
            if (!drag || event.pointerId !== drag.id) return;
            this.move(event);
            this.drag = null;
            editor.ghost = editor.pointer = null;
            if (drag.kind === "draw") this.drawn(drag, editor.canvas.at(event));
            else if (drag.kind === "link") this.linked(drag, editor.canvas.at(event));
            else if (drag.kind === "move" && !drag.moved && drag.again) this.below(drag);
            editor.history.pause();
            editor.render();
            // the name of what was made is typed next; on a touch screen its keyboard would cover the drawing
            const named = editor.named && drag.named && (editor.pending || drag.pointerType !== "touch");
            if (named) editor.view.focusWords();
            else editor.canvas.focus(editor.selected);
        }

        drawn(drag, end) {
            const [x0, y0, x1, y1] = spanned(drag.start, end);
            if (drag.moved && x1 > x0 && y1 > y0) {
                this.editor.add([x0, y0, x1, y1]);
                drag.named = true;
            } else {
                this.editor.select(drag.hits.length ? {kind: "region", index: drag.hits[0]} : null);
            }
        }

        linked(drag, end) {
            const {editor} = this;
            if (drag.from === null) {
                editor.setMode(null);
                return;
            }
            if (!drag.moved) {
                // the two ends may also be pressed one after the other
                const first = editor.from;
                if (first === null || first === drag.from) editor.from = first === null ? drag.from : null;
                else drag.named = editor.link(first, drag.from);
                return;
            }
            const to = editor.canvas.hits(end, editor.regions).find(n => n !== drag.from);
            drag.named = editor.link(drag.from, to);
        }

        // A press on the selected box that moved nothing selects the next one below it.
        below({hits, region}) {
            const next = hits[(hits.indexOf(region) + 1) % hits.length];
            this.editor.select({kind: "region", index: next});
        }

        cancel(event) {
            const {drag, editor} = this;
            if (!drag || event.pointerId !== drag.id) return;
            this.drag = null;
            editor.ghost = editor.pointer = null;
            if (drag.box) editor.setBox(drag.region, drag.box, drag.tag);
            editor.history.pause();
            editor.render();
        }
    }

    amdm.Pointer = Pointer;
    amdm.boxes = {moved, resized, round, snapped};
})();
