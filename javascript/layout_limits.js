// What an adapter will not draw of a layout, said before a picture: in the adapter's own words where its file is known.
(function() {
    "use strict";

    const amdm = window.amdmLayout = window.amdmLayout || {};
    const PUBLISHED = {boxes: 28, actions: 30};

    // room: {adapter, boxes, actions} of the chosen file; boxes or actions are missing where they are not counted.
    function beyond(room, regions, actions) {
        const many = {boxes: regions.length, actions: actions.length};
        const name = `"${amdm.text.clipped(room.adapter || "")}"`;
        if (!room.adapter) {
            return many.boxes > PUBLISHED.boxes || many.actions > PUBLISHED.actions
                ? [`The layout has ${many.boxes} boxes and ${many.actions} actions: GLIGEN takes 30 boxes, MIGC 28, `
                    + "MIGC++ 29, InteractDiffusion 30 actions."] : [];
        }
        const warnings = [];
        for (const [part, word] of [["boxes", "boxes"], ["actions", "interactions"]]) {
            if (many[part] > Number(room[part])) {
                warnings.push(`${name} takes ${room[part]} ${word} and the layout has ${many[part]}; remove some.`);
            }
        }
        if (!room.actions || !regions.length) return warnings;
        if (!actions.length) warnings.push(`${name} draws actions alone; drag one from a box to another.`);
        const alone = regions.find((region, n) => !actions.some(action => action.subject === n || action.object === n));
        if (actions.length && alone) {
            const phrase = amdm.text.clipped(alone.phrase || "");
            warnings.push(`${name} draws actions alone and "${phrase}" takes part in none; give it one or remove it.`);
        }
        return warnings;
    }

    amdm.limits = {beyond};
})();
