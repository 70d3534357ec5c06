"""AMDM's panel on a WebUI page, made from the definition of the settings: no default and no range stands here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..hosts.protocol import Page
from ..layout import EXAMPLE
from ..settings import (
    MAIN_CHECKPOINT,
    NO_ADAPTER,
    NO_CHECKPOINT,
    PICTURES,
    AdapterSettings,
    CoModel,
    Settings,
    Spec,
    WordSpec,
    flat,
    infotext_label,
    specs,
)
from . import infotext, layout, presets

SELDOM = ("gamma_end", "eta", "negative_prompt", "cfg_scale", "noise")
"""What is seldom changed of a slot, and therefore folded."""

OF_REGION = ("region", "mask", "feather")
"""Where a slot's model speaks: a fold of its own."""
EXAMPLE_REGION = "0 0 0.5 1"
SIDES = ("width", "height")
"""The WebUI's sliders that a region's drawing follows."""

OF_ADAPTERS = tuple(spec.name for spec in specs(AdapterSettings))
"""What belongs to a slot's adapter: a fold of its own."""

HIRES_ONLY = ("pass",)
"""What has a meaning in txt2img alone: hidden in img2img and never pasted there."""

IMAGE_HEIGHT = 240
LOOK = "\U0001f50d"
MEMORY = "After a picture its co-models stay in memory, as many as the settings allow."


@dataclass(frozen=True)
class Panel:
    """The controls of one tab, in the order of the API's plain list, and the infotext keys that set them."""

    components: list[Any]
    infotext_fields: list[tuple[Any, str | Callable[[dict], Any]]]
    paste_field_names: list[str]


def build_panel(
    host: Page,
    slots: int,
    tabname: str,
    elem_id: Callable[[str], str],
    start: Settings | None = None,
    sides: Mapping[str, Any] | None = None,
) -> Panel:
    """The controls of a tab ("txt2img" or "img2img") with room for `slots` co-models; `elem_id` makes ids of names.

    start: what the controls show at first, in place of the defaults; slots that it lacks have theirs. sides: the page's
    own controls of the picture's width and height, where it has them.
    The WebUI also calls this outside a page, to learn the defaults, so nothing is registered or remembered here.
    """
    builder = _Builder(host, tabname, elem_id, start or Settings(), slots, sides or {})
    builder.accordion()
    keys = list(flat(slots))
    components = [builder.controls[slot, spec.name] for slot, spec in keys]
    labels = [infotext_label(slot, spec) for slot, spec in keys]
    # a picture cannot be pasted from a text: its control is left as it is, and the page says which one it was
    fields = [
        partial(infotext.pasted_image, label) if spec.name in PICTURES else label
        for label, (_, spec) in zip(labels, keys)
    ]
    pasted = [pair for pair, (_, spec) in zip(zip(components, fields), keys) if builder.has_meaning(spec)]
    # the WebUI pairs the fields of two tabs by their order, so only what both tabs have can be sent between them
    sent = [label for label, (_, spec) in zip(labels, keys) if spec.name not in (*HIRES_ONLY, *PICTURES)]
    return Panel(components, pasted, sent)


def control_label(slot: int, spec: Spec) -> str:
    """The caption of a control. The WebUI saves a user's defaults under it, so it is unique and does not change."""
    if not slot:
        return infotext_label(slot, spec)
    if spec.name == "enabled":
        return f"Use co-model {slot}"
    return f"{spec.label[0].upper()}{spec.label[1:]} of co-model {slot}"


class _Builder:
    """Makes the controls of one tab and keeps them under slot and name."""

    def __init__(
        self,
        host: Page,
        tabname: str,
        elem_id: Callable[[str], str],
        start: Settings,
        slots: int,
        sides: Mapping[str, Any],
    ) -> None:
        self.host, self.tabname, self.elem_id, self.slots, self.sides = host, tabname, elem_id, slots, sides
        self.start = replace(start, co_models=(*start.co_models, *(CoModel(),) * slots))
        self.controls: dict[tuple[int, str], Any] = {}

    def has_meaning(self, spec: Spec) -> bool:
        return self.tabname == "txt2img" or spec.name not in HIRES_ONLY

    def value(self, slot: int, spec: Spec) -> Any:
        """What a control shows at first; a picture's control shows none."""
        return None if spec.name in PICTURES else spec.shown(self.start.value(slot, spec))

    def accordion(self) -> None:
        switch, *others = specs(Settings)
        with self.host.input_accordion(self.value(0, switch), switch.label, self.elem_id(switch.name)) as enabled:
            self.controls[0, switch.name] = enabled
            self.presets()
            with gr.Row():
                self.add(0, (spec for spec in others if not spec.advanced))
            with gr.Accordion("Adapter of the main model", open=False, elem_id=self.elem_id("main_adapter")):
                self.adapter(0, specs(AdapterSettings))
            with gr.Tabs(elem_id=self.elem_id("co_models")):
                for slot in range(1, self.slots + 1):
                    with gr.Tab(f"Co-model {slot}", id=slot, elem_id=self.elem_id(f"co_model_{slot}")):
                        self.slot(slot)
            with gr.Accordion("Advanced", open=False, elem_id=self.elem_id("advanced")), gr.Row():
                self.add(0, (spec for spec in others if spec.advanced))
            self.memory()
            self.let_presets_fill()

    def presets(self) -> None:
        """A list of examples, and a button that fills the controls from the chosen one."""
        with gr.Row():
            self.chosen = gr.Dropdown(
                [preset.name for preset in presets.PRESETS], label="AMDM example", elem_id=self.elem_id("preset")
            )
            self.fill = gr.Button("Fill in the example", elem_id=self.elem_id("fill"))
        self.said = gr.HTML(value="")
        self.transient(self.chosen)
        self.transient(self.fill)

    def let_presets_fill(self) -> None:
        # the buttons' outputs are the controls, so they are connected after these
        keys = [key for key in flat(self.slots) if key[1].name not in PICTURES]
        outputs = [self.said, *(self.controls[slot, spec.name] for slot, spec in keys)]

        def fill(name: str | None) -> list[Any]:
            preset = next((preset for preset in presets.PRESETS if preset.name == name), None)
            if preset is None:
                return ["Choose an example first.", *(gr.update() for _ in keys)]
            told = preset.with_files(self.host.adapter_titles())
            missing = len(told.co_models) - self.slots
            if missing > 0:
                said = "This example needs more slots: raise their number in the settings and reload the page."
                return [said, *(gr.update() for _ in keys)]
            told = replace(told, co_models=(*told.co_models, *(CoModel(),) * -missing))
            return [escape(preset.told), *(gr.update(value=spec.shown(told.value(slot, spec))) for slot, spec in keys)]

        self.fill.click(fn=fill, inputs=[self.chosen], outputs=outputs)

    def adapter(self, slot: int, wanted: Iterable[Spec]) -> None:
        """An adapter's controls, with a drawing of its layout."""
        adapter, *others, last = wanted
        with gr.Row():
            self.add(slot, [adapter])
            self.transient(
                self.host.refresh_button(
                    self.controls[slot, adapter.name],
                    self.host.refresh_adapters,
                    lambda: {"choices": self.adapters()},
                    self.elem_id(f"refresh_adapters_{slot}"),
                )
            )
        with gr.Row():
            self.add(slot, (spec for spec in others if spec.name != "image"))
        with gr.Row():
            self.add(slot, (spec for spec in others if spec.name == "image"))
            with gr.Column():
                self.add(slot, [last])
                example = gr.Button("Example layout", elem_id=self.elem_id(f"example_{slot}"))
                drawn = gr.HTML(value=layout.EMPTY)
        boxes = self.controls[slot, last.name]
        for listen in (boxes.change, boxes.blur):
            listen(fn=layout.preview, inputs=[boxes], outputs=[drawn], queue=False, show_progress=False)
        example.click(fn=lambda: EXAMPLE, inputs=[], outputs=[boxes])
        self.transient(example)

    def slot(self, slot: int) -> None:
        switch, checkpoint, *others = specs(CoModel)
        with gr.Row():
            self.add(slot, (switch, checkpoint))
            self.transient(
                self.host.refresh_button(
                    self.controls[slot, checkpoint.name],
                    self.host.refresh_checkpoints,
                    lambda: {"choices": self.checkpoints()},
                    self.elem_id(f"refresh_{slot}"),
                )
            )
        self.add(slot, (spec for spec in others if spec.name not in (*SELDOM, *OF_REGION, *OF_ADAPTERS)))
        with gr.Accordion(f"Adapter of co-model {slot}", open=False, elem_id=self.elem_id(f"adapter_of_{slot}")):
            self.adapter(slot, (spec for spec in others if spec.name in OF_ADAPTERS))
        self.choose_main_for_adapter(slot)
        with gr.Accordion(f"Region of co-model {slot}", open=False, elem_id=self.elem_id(f"region_of_{slot}")):
            self.region(slot, (spec for spec in others if spec.name in OF_REGION))
        with gr.Accordion(f"More of co-model {slot}", open=False, elem_id=self.elem_id(f"more_{slot}")):
            self.add(slot, (spec for spec in others if spec.name in SELDOM))

    def region(self, slot: int, wanted: Iterable[Spec]) -> None:
        """Where a slot's model speaks, with a drawing of it."""
        wanted = list(wanted)
        with gr.Row():
            self.add(slot, (spec for spec in wanted if spec.name not in PICTURES))
        with gr.Row():
            self.add(slot, (spec for spec in wanted if spec.name in PICTURES))
            with gr.Column():
                drawn = gr.HTML(value=layout.EVERYWHERE)
        inputs = [self.controls[slot, name] for name in OF_REGION]
        if len(self.sides) == len(SIDES):
            inputs += [self.sides[side] for side in SIDES]
        # fast typing loses changes while one is under way, so the text is looked at again once it is left
        for listen in (self.controls[slot, "region"].blur, *(control.change for control in inputs)):
            listen(fn=layout.region_preview, inputs=inputs, outputs=[drawn], queue=False, show_progress=False)

    def choose_main_for_adapter(self, slot: int) -> None:
        """An adapter without a checkpoint runs nothing, and most are meant for the main one: choose that."""

        def choose(adapter: str, checkpoint: str) -> str:
            idle = checkpoint in (None, "", NO_CHECKPOINT) and adapter not in (None, "", NO_ADAPTER)
            return MAIN_CHECKPOINT if idle else checkpoint

        adapter, checkpoint = self.controls[slot, "adapter"], self.controls[slot, "checkpoint"]
        adapter.select(fn=choose, inputs=[adapter, checkpoint], outputs=[checkpoint], queue=False, show_progress=False)

    def memory(self) -> None:
        """A line that says what is in memory when asked, and a button that takes it out."""
        with gr.Row(elem_id=self.elem_id("memory")):
            line = gr.HTML(value=MEMORY)  # no id of its own: some versions of gradio put it on two elements
            look = self.host.tool_button(
                LOOK, self.elem_id("look"), "Show which co-models are in memory, and their size."
            )
            unload = gr.Button("Unload co-models", elem_id=self.elem_id("unload"))
        look.click(fn=self.loaded, inputs=[], outputs=[line])
        unload.click(fn=self.unload, inputs=[], outputs=[line])
        self.transient(look)
        self.transient(unload)

    def add(self, slot: int, wanted: Iterable[Spec]) -> None:
        for spec in wanted:
            made = self.make(
                spec,
                value=self.value(slot, spec),
                label=control_label(slot, spec),
                elem_id=self.elem_id(f"{spec.name}_{slot}" if slot else spec.name),
                visible=self.has_meaning(spec),
            )
            made.webui_tooltip = spec.help  # the WebUI's page shows it where the pointer rests on the control
            self.controls[slot, spec.name] = made

    def make(self, spec: Spec, **common: Any) -> Any:
        span = {"minimum": spec.minimum, "maximum": spec.maximum, "step": spec.step}
        if spec.name == "checkpoint":
            # a picture may name a checkpoint that is gone: it is shown as it is, and the run says what is wrong
            return gr.Dropdown(choices=self.checkpoints(), allow_custom_value=True, **common)
        if spec.name == "adapter":
            return gr.Dropdown(choices=self.adapters(), allow_custom_value=True, **common)
        if spec.name in PICTURES:
            # a mask may be told by its transparency, which gradio drops unless it is asked for
            mode = "RGBA" if spec.name == "mask" else "RGB"
            return gr.Image(type="pil", image_mode=mode, height=IMAGE_HEIGHT, **common)
        if spec.name == "layout":
            return gr.Textbox(lines=spec.lines, placeholder=EXAMPLE, **common)
        if isinstance(spec, WordSpec):
            return gr.Textbox(max_lines=1, placeholder=spec.word or "empty", **common)
        if spec.name == "region":
            return gr.Textbox(lines=spec.lines, placeholder=EXAMPLE_REGION, **common)
        if spec.name == "eta":
            # its useful range depends on the correction, so a slider would be too coarse or too short
            return gr.Number(**span, **common)
        if spec.choices:
            kind = gr.Radio if len(spec.choices) == 2 else gr.Dropdown
            return kind(choices=list(spec.choices), **common)
        if spec.type is bool:
            return gr.Checkbox(scale=0, min_width=150, **common)
        if spec.type is str:
            # the class gives the text box the WebUI's keys for emphasis
            return gr.Textbox(lines=spec.lines, placeholder=spec.help, elem_classes=["prompt"], **common)
        return gr.Slider(**span, **common)

    def transient(self, made: Any) -> None:
        made.do_not_save_to_config = True

    def checkpoints(self) -> list[str]:
        return [NO_CHECKPOINT, MAIN_CHECKPOINT, *self.host.checkpoint_titles()]

    def adapters(self) -> list[str]:
        return [NO_ADAPTER, *self.host.adapter_titles()]

    def loaded(self) -> str:
        entries = self.host.loaded()
        if not entries:
            return "No co-model is in memory."
        return f"In memory: {', '.join(f'{escape(entry.name)} ({_size(entry.size)})' for entry in entries)}."

    def unload(self) -> str:
        entries = self.host.unload()
        return f"Unloaded: {len(entries)} ({_size(sum(entry.size for entry in entries))}). {self.loaded()}"


def _size(count: float) -> str:
    """A number of bytes in words: "1.6 GB"."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
