// The drawing of a layout: a picture's surface with boxes in percent, arrows between them, and the handles of one.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000"];
    const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
    const SVG = "http://www.w3.org/2000/svg";
    const LABEL_STEP = 1.4;
    let canvases = 0;

    // make("button", {className: "x", dataset: {y: 1}}, "text", element)
    function make(tag, properties = {}, ...children) {
        const {dataset, attributes, ...rest} = properties;
        const element = Object.assign(document.createElement(tag), rest);
        Object.assign(element.dataset, dataset || {});
        for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
        element.append(...children);
        return element;
    }

    function makeSvg(tag, attributes) {
        const element = document.createElementNS(SVG, tag);
        for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
        return element;
    }

    // WebUIs watch the page for changes, so what is the same already is left alone.
    function say(element, text) {
        if (element.textContent !== text) element.textContent = text;
    }

    function setAttributes(element, attributes) {
        for (const [name, value] of Object.entries(attributes)) {
            if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
        }
    }

    function percent(share) {
        return `${Math.round(share * 1e6) / 1e4}%`;
    }

    function place(element, [x0, y0, x1, y1]) {
        const style = {left: percent(x0), top: percent(y0), width: percent(x1 - x0), height: percent(y1 - y0)};
        Object.assign(element.style, style);
    }

    function centre([x0, y0, x1, y1]) {
        return [(x0 + x1) / 2, (y0 + y1) / 2];
    }

    function area([x0, y0, x1, y1]) {
        return (x1 - x0) * (y1 - y0);
    }

    // One colour for each phrase, in the order in which they first come.
    function colourOf(regions, n) {
        const first = regions.findIndex(region => region.phrase === regions[n].phrase);
        return COLOURS[first % COLOURS.length];
    }

    // The numbers of the boxes from the lowest to the topmost: a small one lies above a large one, never under it.
    function stacked(regions) {
        const drawn = regions.map((region, n) => n).filter(n => regions[n].box);
        return drawn.sort((a, b) => area(regions[b].box) - area(regions[a].box) || a - b);
    }

    // As many elements as are wanted, those that are there first: an element that stays keeps the focus.
    function count(elements, wanted, parent, another) {
        while (elements.length > wanted) elements.pop().remove();
        while (elements.length < wanted) {
            elements.push(another());
            parent.append(elements[elements.length - 1]);
        }
        return elements;
    }

    class Canvas {
        constructor(name) {
            this.arrowId = `amdm-arrow-${canvases += 1}`;
            this.picture = make("img", {className: "amdm-behind", alt: "", draggable: false, hidden: true});
            this.shares = make("div", {className: "amdm-behind", attributes: {"aria-hidden": "true"}});
            this.lines = makeSvg("svg", {class: "amdm-lines", "aria-hidden": "true"});
            const marker = makeSvg("marker", {
                id: this.arrowId, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 9, markerHeight: 9,
                orient: "auto", markerUnits: "userSpaceOnUse"
            });
            marker.append(makeSvg("path", {d: "M0,0 L10,5 L0,10 z"}));
            const defs = makeSvg("defs", {});
            defs.append(marker);
            this.lines.append(defs);
            this.ghost = make("div", {className: "amdm-ghost", hidden: true});
            this.frame = make("div", {className: "amdm-frame", hidden: true});
            for (const side of HANDLES) {
                this.frame.append(make("div", {className: `amdm-handle amdm-${side}`, dataset: {handle: side}}));
            }
            this.hint = make("div", {className: "amdm-hint"}, "Drag here to draw a box.");
            this.element = make(
                "div", {
                    className: "amdm-canvas", tabIndex: 0,
                    attributes: {role: "listbox", "aria-label": `${name}: boxes on the picture`}
                },
                this.picture, this.shares, this.hint, this.ghost, this.lines, this.frame
            );
            this.boxes = [];
            this.labels = [];
            this.arrows = [];
        }

        // actions: rows with the numbers of regions, drawn as arrows. selected: {kind: "region" or "action", index}.
        draw({regions, actions, selected, pending, from, ghost, pointer}) {
            this.hint.hidden = Boolean(regions.length || ghost);
            this.drawBoxes(regions, selected, from);
            const shown = actions.map((action, index) => ({...action, index}));
            if (pending) shown.push({...pending, action: "…", index: -1});
            const between = ({subject, object}) => regions[subject]?.box && regions[object]?.box;
            this.drawActions(shown.filter(between), regions, selected);
            this.drawPointer(from === null ? null : regions[from]?.box, pointer);
            this.ghost.hidden = !ghost;
            if (ghost) place(this.ghost, ghost);
            const framed = selected?.kind === "region" ? regions[selected.index]?.box : null;
            this.frame.hidden = !framed;
            if (framed) place(this.frame, framed);
        }

        drawBoxes(regions, selected, from) {
            const order = stacked(regions);
            const drawn = regions.map((region, n) => n).filter(n => regions[n].box);
            const another = {className: "amdm-box", tabIndex: 0, attributes: {role: "option"}};
            count(
                this.boxes, drawn.length, this.element,
                () => make("div", another, make("span", {className: "amdm-label"}))
            );
            drawn.forEach((n, i) => {
                const [element, {phrase, box}] = [this.boxes[i], regions[n]];
                const chosen = selected?.kind === "region" && selected.index === n;
                place(element, box);
                element.style.setProperty("--amdm-colour", colourOf(regions, n));
                element.style.zIndex = String(1 + order.indexOf(n));
                element.dataset.region = n;
                element.classList.toggle("amdm-from", from === n);
                const sides = box.map(share => `${Math.round(share * 1000) / 10} %`);
                setAttributes(element, {
                    "aria-selected": chosen,
                    "aria-label": `${phrase || "box"}: left ${sides[0]}, top ${sides[1]}, right ${sides[2]}, bottom ${sides[3]}`
                });
                say(element.firstChild, phrase || "");
            });
        }

        drawActions(actions, regions, selected) {
            const arrow = {"marker-end": `url(#${this.arrowId})`};
            const another = {className: "amdm-action", tabIndex: 0, attributes: {role: "option"}};
            count(this.arrows, actions.length, this.lines, () => makeSvg("line", arrow));
            count(this.labels, actions.length, this.element, () => make("div", another));
            const between = {};
            actions.forEach(({subject, action, object, index}, i) => {
                const [[x0, y0], [x1, y1]] = [centre(regions[subject].box), centre(regions[object].box)];
                setAttributes(this.arrows[i], {
                    x1: percent(x0), y1: percent(y0), x2: percent(x1), y2: percent(y1),
                    class: index < 0 ? "amdm-pending" : ""
                });
                // several actions between the same two would lie on each other
                const pair = [subject, object].sort().join();
                between[pair] = (between[pair] ?? -1) + 1;
                const label = this.labels[i];
                label.style.left = percent((x0 + x1) / 2);
                label.style.top = `calc(${percent((y0 + y1) / 2)} + ${between[pair] * LABEL_STEP}em)`;
                label.dataset.action = index;
                setAttributes(label, {
                    "aria-selected": selected?.kind === "action" && selected.index === index,
                    "aria-label": `${regions[subject].phrase} ${action} ${regions[object].phrase}`
                });
                say(label, action);
            });
        }

        // The arrow that is being drawn, from a box to where the pointer is.
        drawPointer(box, pointer) {
            const shown = box && pointer;
            if (!this.dragged) {
                this.dragged = makeSvg("line", {"marker-end": `url(#${this.arrowId})`, class: "amdm-pending"});
                this.lines.append(this.dragged);
            }
            this.dragged.style.display = shown ? "" : "none";
            if (!shown) return;
            const [x, y] = centre(box);
            const [x1, y1, x2, y2] = [x, y, ...pointer].map(percent);
            setAttributes(this.dragged, {x1, y1, x2, y2});
        }

        // Where an event is, as shares of the picture's width and height, held within the picture.
        at(event) {
            const {left, top, width, height} = this.element.getBoundingClientRect();
            const held = share => Math.min(Math.max(share || 0, 0), 1);
            return [held((event.clientX - left) / width), held((event.clientY - top) / height)];
        }

        // The numbers of the boxes at a point, the topmost first.
        hits([x, y], regions) {
            const within = ([x0, y0, x1, y1]) => x0 <= x && x <= x1 && y0 <= y && y <= y1;
            return stacked(regions).filter(n => within(regions[n].box)).reverse();
        }

        // What a region's boxes come to, as the page has drawn it: an element, or null.
        underlay(drawing) {
            if (drawing === this.drawing) return;
            this.drawing = drawing;
            this.shares.replaceChildren(...drawing ? [drawing.cloneNode(true)] : []);
        }

        focus(selected) {
            const of = {region: [this.boxes, "region"], action: [this.labels, "action"]}[selected?.kind];
            const element = of && of[0].find(one => Number(one.dataset[of[1]]) === selected.index);
            (element || this.element).focus({preventScroll: true});
        }
    }

    amdm.make = make;
    amdm.say = say;
    amdm.Canvas = Canvas;
})();
