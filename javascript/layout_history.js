// What a layout's text was before each change, for undo and redo.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const MOST = 200;

    class History {
        constructor(text) {
            this.text = text;
            this.past = [];
            this.future = [];
            this.tag = null;
        }

        // Changes with one tag that follow each other, such as a drag's, are undone together.
        record(text, tag = null) {
            if (text === this.text) return;
            if (tag === null || tag !== this.tag) {
                this.past.push(this.text);
                if (this.past.length > MOST) this.past.shift();
            }
            this.tag = tag;
            this.text = text;
            this.future = [];
        }

        // The next change is a separate step, whatever its tag.
        pause() {
            this.tag = null;
        }

        undo() {
            return this.step(this.past, this.future);
        }

        redo() {
            return this.step(this.future, this.past);
        }

        step(from, to) {
            if (!from.length) return this.text;
            to.push(this.text);
            this.text = from.pop();
            this.tag = null;
            return this.text;
        }
    }

    amdm.History = History;
})();
