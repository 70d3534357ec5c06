"""AMDM's panel on a WebUI page, made from the definition of the settings: it has no defaults or ranges itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from html import escape
from types import SimpleNamespace
from typing import Any, NamedTuple

import gradio as gr
from gradio.context import Context

from ..comodels.placing import device_choices
from ..hosts.protocol import Page
from ..layout import EXAMPLE, Layout, LayoutError
from ..settings import (
    MAIN_CHECKPOINT,
    NO_ADAPTER,
    NO_CHECKPOINT,
    AdapterSettings,
    AdapterSpec,
    BoxesSpec,
    CheckpointSpec,
    CoModel,
    DeviceSpec,
    LayoutSpec,
    ListedSpec,
    Part,
    PictureSpec,
    Settings,
    Spec,
    SwitchSpec,
    WideNumberSpec,
    WordSpec,
    flat,
    infotext_label,
    of_kind,
    only,
    specs,
)
from . import (
    adapter_inputs,
    examples,
    fitting,
    holding,
    infotext,
    layout_mount,
    listed,
    listen,
    region_preview,
    token_counters,
    tooltips,
)
from .captions import caption
from .hints import Hints

EXAMPLE_TOOLTIP = "Write an example into the layout: two phrases in boxes, and an action."
EXAMPLE_REGION = "0 0 0.5 1"
SIDES = ("width", "height")
"""The WebUI's sliders that a region's drawing follows."""
FOLLOWED = (*SIDES, *token_counters.MAIN_PROMPTS.values())
"""The ends of the ids of all the WebUI's controls that the panel follows."""
IMAGE_HEIGHT = 240
LOOK, UNLOAD, FILL, UNDO = "\U0001f50d", "\u23cf\ufe0f", "\u2199\ufe0f", "\u21a9\ufe0f"
COUNTS = (*range(9), 10, 12, 15, 20, 25, 30, 50)
"""Numbers of steps that can be chosen by mouse; any other can be typed."""
COUNT = "Count the prompt's tokens, as the main checkpoint reads them."
MEMORY = "After a picture its co-models stay in memory, as many as the settings allow."


class Panel(NamedTuple):
    """The controls of one tab, in the order of the API's plain list, and the infotext keys that set them.

    follow: called with the page's control of the main checkpoint, which is made after this panel.
    """

    components: list[Any]
    infotext_fields: list[tuple[Any, str | Callable[[dict], Any]]]
    paste_field_names: list[str]
    follow: Callable[[Any], None]


def build_panel(
    host: Page,
    slots: int,
    tabname: str,
    elem_id: Callable[[str], str],
    start: Settings | None = None,
    sides: Mapping[str, Any] | None = None,
    offered: Mapping[str, examples.Example] = examples.EXAMPLES,
) -> Panel:
    """Build the controls of a tab ("txt2img" or "img2img") with room for `slots` co-models.

    elem_id: turns names into ids.
    start: the controls' first values, instead of the defaults; slots that it lacks have the defaults.
    sides: the page's own controls of the picture's width and height, and its prompts, if it has them.
    offered: the examples by their names.
    """
    builder = _Builder(host, tabname, elem_id, start or Settings(), slots, sides or {}, offered)
    builder.accordion()
    keys = list(flat(slots))
    components = [builder.controls[slot, spec.name] for slot, spec in keys]
    labels = [infotext_label(slot, spec) for slot, spec in keys]
    # a picture cannot be pasted from a text: its control is left alone, and the page names the picture
    fields = [_pasted(label, spec) for label, (_, spec) in zip(labels, keys)]
    said = [spec.shapes_picture and builder.has_meaning(spec) for _, spec in keys]
    pasted = [pair for pair, is_said in zip(zip(components, fields), said) if is_said]
    # the WebUI pairs the fields of two tabs by their order, so only what both tabs have can be sent between them
    both = [not (spec.hires_fix or isinstance(spec, PictureSpec)) and spec.shapes_picture for _, spec in keys]
    sent = [label for label, is_sent in zip(labels, both) if is_sent]
    return Panel(components, pasted, sent, builder.hints.follow)


def defaults(slots: int) -> list[SimpleNamespace]:
    """Return stand-ins for a tab's controls, in the order of the API's plain list, if no page is being built.

    The WebUI's API builds the panel four times in a start, and reads only the values.
    """
    start = _with_slots(Settings(), slots)
    return [SimpleNamespace(value=_value(start, slot, spec), label=caption(slot, spec)) for slot, spec in flat(slots)]


def follow_main(panels: Iterable[Panel], control: Any) -> None:
    """Let panels follow the page's control of the main checkpoint."""
    for built in panels:
        built.follow(control)


def is_page() -> bool:
    """Return True if a page is being built, in which the panel is inside another block."""
    return Context.block is not Context.root_block


def _with_slots(settings: Settings, slots: int) -> Settings:
    return replace(settings, co_models=(*settings.co_models, *(CoModel(),) * slots))


def _value(settings: Settings, slot: int, spec: Spec) -> Any:
    """Return the value of a control; a picture's control is empty."""
    return None if isinstance(spec, PictureSpec) else spec.shown(settings.value(slot, spec))


def _part(part: Part, of: type) -> list[Spec]:
    """List the settings of a dataclass that one part of the panel shows."""
    return [spec for spec in specs(of) if spec.part is part]


def _pasted(label: str, spec: Spec) -> str | Callable[[dict], Any]:
    """Return the infotext key of a control, or a function that reads its value from an infotext."""
    if isinstance(spec, PictureSpec):
        return partial(infotext.pasted_image, label)
    return infotext.SwitchKey(label) if spec.type is bool else label


def _without(kinds: tuple[type[Spec], ...], among: Iterable[Spec]) -> list[Spec]:
    return [spec for spec in among if not isinstance(spec, kinds)]


def _is_readable(layout: str | None) -> bool:
    try:
        Layout.read(layout or "")
    except LayoutError:
        return False
    return True


class _AdapterParts(NamedTuple):
    """The function that shows which controls an adapter's file takes, and the controls that it reads and sets."""

    chose: Callable[..., list[Any]]
    inputs: list[Any]
    outputs: list[Any]


class _Builder:
    """The controls of one tab under construction, by slot and name."""

    def __init__(
        self,
        host: Page,
        tabname: str,
        elem_id: Callable[[str], str],
        start: Settings,
        slots: int,
        sides: Mapping[str, Any],
        offered: Mapping[str, examples.Example],
    ) -> None:
        self.offered = offered
        self.host, self.tabname, self.elem_id, self.slots, self.sides = host, tabname, elem_id, slots, sides
        self.start = _with_slots(start, slots)
        self.controls: dict[tuple[int, str], Any] = {}
        self.tooltips: dict[str, str] = {}
        self.adapters: list[_AdapterParts] = []
        self.holding = holding.Holding(self.elem_id_of)

    def has_meaning(self, spec: Spec) -> bool:
        """Return False for a setting that this tab cannot use; its control is hidden, and nothing is pasted there."""
        return self.tabname == "txt2img" or not spec.hires_fix

    def value(self, slot: int, spec: Spec) -> Any:
        """Return a control's first value."""
        return _value(self.start, slot, spec)

    def accordion(self) -> None:
        """Build everything; the accordion's own switch comes first."""
        switch = only(SwitchSpec, specs(Settings))
        with self.host.input_accordion(self.value(0, switch), switch.label, self.elem_id(switch.name)) as enabled:
            self.controls[0, switch.name] = enabled
            self.tooltips[tooltips.of_fold(self.elem_id(switch.name))] = tooltips.PANEL
            tabs = self.elem_id("co_models")
            with gr.Tabs(elem_id=tabs):
                for slot in range(1, self.slots + 1):
                    tab = self.elem_id(f"co_model_{slot}")
                    self.tooltips[tooltips.of_tab(tabs, slot, tab)] = tooltips.SLOT
                    self.holding.mark(tooltips.of_tab(tabs, slot, tab), slot, [only(CheckpointSpec, specs(CoModel))])
                    with gr.Tab(f"Co-model {slot}", id=slot, elem_id=tab):
                        self.slot(slot)
            with gr.Row():
                self.add(0, _without((SwitchSpec,), _part(Part.FRONT, Settings)))
            self.hints = Hints(self.host, self.slots, self.tabname, self.start)
            with self.fold("main_adapter", "Adapter of the main model", wanted=_part(Part.ADAPTER, AdapterSettings)):
                self.adapter(0, _part(Part.ADAPTER, AdapterSettings))
            with self.fold("advanced", "Advanced", wanted=_part(Part.SELDOM, Settings)), gr.Row():
                self.add(0, _part(Part.SELDOM, Settings))
            with self.fold("examples", "Examples"):
                self.presets()
            with self.fold("memory_fold", "Memory"):
                self.memory()
            self.hints.connect(self.controls)
            defaults = {self.elem_id_of(slot, spec): spec for slot, spec in flat(self.slots)}
            self.show_adapters(enabled)
            placed = tooltips.place(self.tooltips) + self.holding.place(defaults)
            gr.HTML(value=placed, elem_classes=["amdm-unseen"])

    def fold(self, name: str, said: str, slot: int = 0, wanted: Iterable[Spec] = ()) -> Any:
        """Build a closed fold. wanted: the settings in it, by which it is marked and opened."""
        elem_id = self.elem_id(f"{name}_{slot}" if slot else name)
        self.tooltips[tooltips.of_fold(elem_id)] = tooltips.FOLDS[name]
        self.holding.mark(tooltips.of_fold(elem_id), slot, wanted, opens=True)
        return gr.Accordion(said, open=False, elem_id=elem_id)

    def tool_button(self, symbol: str, name: str, tooltip: str) -> Any:
        """Build an icon button that is left out of saved UI defaults."""
        button = self.host.tool_button(symbol, self.elem_id(name), tooltip)
        self.tooltips[f"#{self.elem_id(name)}"] = tooltip
        self.transient(button)
        return button

    def presets(self) -> None:
        """Build a list of examples, with buttons that fill the controls from one, and undo it."""
        with gr.Row():
            chosen = gr.Dropdown(list(self.offered), label="AMDM example", elem_id=self.elem_id("preset"))
            fill = self.tool_button(FILL, "fill", "Fill the controls from the example.")
            undo = self.tool_button(UNDO, "undo", "Take the example back.")
        self.transient(chosen)
        examples.connect(self.example, self.slots, self.controls, chosen, fill, undo)

    def example(self, name: str | None, chosen: examples.Chosen) -> tuple[Settings, str] | None:
        """Return an example's settings and what else it needs; None if no example has this name."""
        make = self.offered.get(name or "")
        return make(self.host, chosen) if make else None

    def adapter(self, slot: int, wanted: list[Spec]) -> None:
        """Build an adapter's controls, with the place of its layout's editor."""
        file, layout = only(AdapterSpec, wanted), only(LayoutSpec, wanted)
        with gr.Row():
            self.add(slot, [file])
            self.refresh_button(slot, file, f"refresh_adapters_{slot}")
        name, layout_text = self.value(slot, file), self.value(slot, layout)
        mount = partial(layout_mount.mount, self.host, self.elem_id_of(slot, layout))
        of_image, of_layout, of_all = self.shown(name, layout_text, wanted)
        with gr.Row(visible=of_all) as all_kinds:
            self.add(slot, _without((AdapterSpec, LayoutSpec, PictureSpec), wanted))
        with gr.Row():
            with gr.Column(visible=of_image) as image_alone:
                self.add(slot, (spec for spec in wanted if isinstance(spec, PictureSpec)))
            with gr.Column(visible=of_layout) as layout_alone:
                self.add(slot, [layout])
                example = gr.Button("Example layout", size="sm", elem_id=self.elem_id(f"example_{slot}"))
                self.tooltips[f"#{self.elem_id(f'example_{slot}')}"] = EXAMPLE_TOOLTIP
                editor = gr.HTML(value=mount(name))
        boxes, chosen = self.controls[slot, layout.name], self.controls[slot, file.name]

        # before a picture, the editor shows what the chosen file does not take
        def chose(name: str | None, text: str | None) -> list[Any]:
            return [mount(name), *(gr.update(visible=shown) for shown in self.shown(name, text, wanted))]

        parts = _AdapterParts(chose, [chosen, boxes], [editor, image_alone, layout_alone, all_kinds])
        call: dict[str, Any] = {"fn": listen.quick(chose), "inputs": parts.inputs, "outputs": parts.outputs}
        chosen.change(**call, queue=False, show_progress=False)
        listen.after_choice(chosen, **call)
        self.adapters.append(parts)
        example.click(fn=lambda: EXAMPLE, inputs=[], outputs=[boxes])
        self.transient(example)

    def shown(self, adapter: str | None, layout: str | None, wanted: list[Spec]) -> tuple[bool, bool, bool]:
        """Return True for each part of an adapter's controls that is needed: picture, layout, the common ones."""
        taken = adapter_inputs.takes(self.host, adapter)
        other = _without((AdapterSpec, LayoutSpec, PictureSpec), wanted)
        # a layout that is refused must stay visible, to be corrected
        with_layout = taken(only(LayoutSpec, wanted)) or not _is_readable(layout)
        return any(map(taken, of_kind(PictureSpec, wanted))), with_layout, any(map(taken, other))

    def show_adapters(self, enabled: Any) -> None:
        """Show the chosen adapters' inputs once the panel is opened: a user's saved default fires no event."""

        def opened_adapters(is_on: bool, *values: Any) -> list[Any]:
            remaining = iter(values)
            updates = [part.chose(*(next(remaining) for _ in part.inputs)) for part in self.adapters]
            return [update if is_on else gr.update() for part in updates for update in part]

        enabled.change(
            fn=listen.quick(opened_adapters),
            inputs=[enabled, *(control for part in self.adapters for control in part.inputs)],
            outputs=[output for part in self.adapters for output in part.outputs],
            queue=False,
            show_progress=False,
        )

    def slot(self, slot: int) -> None:
        """Build the tab of one co-model."""
        checkpoint = only(CheckpointSpec, specs(CoModel))
        with gr.Row():
            self.add(slot, (only(SwitchSpec, specs(CoModel)), checkpoint))
            self.refresh_button(slot, checkpoint, f"refresh_{slot}")
        self.add(slot, _without((SwitchSpec, CheckpointSpec), _part(Part.FRONT, CoModel)))
        with self.fold("adapter_of", f"Adapter of co-model {slot}", slot, _part(Part.ADAPTER, CoModel)):
            self.adapter(slot, _part(Part.ADAPTER, CoModel))
        self.choose_main_for_adapter(slot)
        with self.fold("region_of", f"Region of co-model {slot}", slot, _part(Part.REGION, CoModel)):
            self.region(slot, _part(Part.REGION, CoModel))
        with self.fold("more", f"More of co-model {slot}", slot, _part(Part.SELDOM, CoModel)):
            self.add(slot, _part(Part.SELDOM, CoModel))

    def region(self, slot: int, wanted: list[Spec]) -> None:
        """Build the controls of a slot's region, with the place of its editor and a drawing of the result."""
        boxes = only(BoxesSpec, wanted)
        with gr.Row():
            self.add(slot, _without((PictureSpec,), wanted))
        with gr.Row():
            self.add(slot, (spec for spec in wanted if isinstance(spec, PictureSpec)))
            with gr.Column(elem_classes=[layout_mount.REGION]):
                gr.HTML(value=layout_mount.mount_region(self.elem_id_of(slot, boxes)))
                drawn = gr.HTML(value=region_preview.EVERYWHERE, elem_classes=[layout_mount.SHARES])
        inputs = [self.controls[slot, name] for name in region_preview.REGION_INPUTS]
        if all(side in self.sides for side in SIDES):
            inputs += [self.sides[side] for side in SIDES]
        draw = listen.quick(region_preview.region_preview)
        call: dict[str, Any] = {"fn": draw, "inputs": inputs, "outputs": [drawn]}
        self.controls[slot, boxes.name].blur(**call, queue=False, show_progress=False)
        for control in inputs:
            listen.after_change(control, **call)

    def choose_main_for_adapter(self, slot: int) -> None:
        """Choose the main checkpoint once an adapter is chosen: without a checkpoint nothing runs."""

        def choose(adapter: str, checkpoint: str) -> str:
            idle = checkpoint in (None, "", NO_CHECKPOINT) and adapter not in (None, "", NO_ADAPTER)
            return MAIN_CHECKPOINT if idle else checkpoint

        adapter, checkpoint = (
            self.controls[slot, only(kind, specs(CoModel)).name] for kind in (AdapterSpec, CheckpointSpec)
        )
        adapter.select(
            fn=listen.quick(choose),
            inputs=[adapter, checkpoint],
            outputs=[checkpoint],
            queue=False,
            show_progress=False,
        )

    def memory(self) -> None:
        """Build a button that shows what is in memory, and one that unloads it."""
        with gr.Row(elem_id=self.elem_id("memory")):
            line = gr.HTML(value=MEMORY)  # no id: some versions of gradio put it on two elements
            look = self.tool_button(LOOK, "look", "Show which co-models are in memory, and their size.")
            unload = self.tool_button(UNLOAD, "unload", "Take all co-models out of memory.")
        look.click(fn=listen.quick(self.loaded), inputs=[], outputs=[line])
        unload.click(fn=listen.quick(self.unload), inputs=[], outputs=[line])

    def add(self, slot: int, wanted: Iterable[Spec]) -> None:
        """Build the controls of some settings of a slot, or of the main settings (slot 0)."""
        for spec in wanted:
            control = self.control(
                spec,
                value=self.value(slot, spec),
                label=caption(slot, spec),
                elem_id=self.elem_id_of(slot, spec),
                visible=self.has_meaning(spec),
            )
            control.webui_tooltip = spec.help  # the WebUI's page shows it while the pointer rests on the control
            self.controls[slot, spec.name] = control
            if spec.name in token_counters.MAIN_PROMPTS and self.host.token_count:
                token_counters.add(self.host.token_count, spec.name, control, self.sides)
                self.tooltips[f"#{control.elem_id}_count"] = COUNT

    def elem_id_of(self, slot: int, spec: Spec) -> str:
        """Return the id of a setting's control."""
        return self.elem_id(f"{spec.name}_{slot}" if slot else spec.name)

    def control(self, spec: Spec, **common: Any) -> Any:
        """Build the control that suits a kind of setting."""
        span = {"minimum": spec.minimum, "maximum": spec.maximum, "step": spec.step}
        match spec:
            case ListedSpec():
                # a setting may name a file that is gone: it is shown as it is, and the run reports it
                marked = [fitting.CLASS] if isinstance(spec, CheckpointSpec) else []
                choices = listed.choices(self.host, spec)
                return gr.Dropdown(choices=choices, allow_custom_value=True, elem_classes=marked, **common)
            case DeviceSpec():
                # an infotext may name a device of another machine
                return gr.Dropdown(choices=device_choices(), allow_custom_value=True, **common)
            case PictureSpec():
                # gradio drops a picture's transparency by default
                mode = "RGBA" if spec.transparent else "RGB"
                return gr.Image(type="pil", image_mode=mode, height=IMAGE_HEIGHT, **common)
            case LayoutSpec():
                return gr.Textbox(lines=spec.lines, placeholder=EXAMPLE, **common)
            case WordSpec() if spec.type is int:
                # by mouse as well as by keys
                choices = [spec.word, *(str(n) for n in COUNTS if (spec.minimum or 0) <= n <= (spec.maximum or n))]
                return gr.Dropdown(choices=choices, allow_custom_value=True, **common)
            case WordSpec():
                return gr.Textbox(max_lines=1, placeholder=spec.word or "empty", **common)
            case BoxesSpec():
                return gr.Textbox(lines=spec.lines, placeholder=EXAMPLE_REGION, **common)
            case WideNumberSpec():
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

    def refresh_button(self, slot: int, spec: ListedSpec, name: str) -> None:
        """Build the button that refreshes a control's list."""
        self.tooltips[f"#{self.elem_id(name)}"] = "Read the list again."
        self.transient(
            self.host.refresh_button(
                self.controls[slot, spec.name],
                partial(listed.refresh, self.host, spec),
                lambda: {"choices": listed.choices(self.host, spec)},
                self.elem_id(name),
            )
        )

    def transient(self, control: Any) -> None:
        """Keep a control out of the defaults that the WebUI saves for a user."""
        control.do_not_save_to_config = True

    def loaded(self) -> str:
        """Say what is in memory."""
        entries = self.host.loaded()
        if not entries:
            return "No co-model is in memory."
        return f"In memory: {', '.join(f'{escape(entry.name)} ({_size(entry.size)})' for entry in entries)}."

    def unload(self) -> str:
        """Unload everything, and say what that was."""
        entries = self.host.unload()
        return f"Unloaded: {len(entries)} ({_size(sum(entry.size for entry in entries))}). {self.loaded()}"


def _size(count: float) -> str:
    """Write a number of bytes in words: "1.6 GB"."""
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
