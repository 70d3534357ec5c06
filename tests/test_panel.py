"""The panel: its controls, their defaults, and the names under which a WebUI saves, pastes and lists them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost
from PIL import Image

from lib_amdm.comodels.cache import InMemory
from lib_amdm.families import Family
from lib_amdm.files.pictures import mask_of
from lib_amdm.hosts.common.main_checkpoint import is_main_checkpoint
from lib_amdm.settings import (
    AdapterSettings,
    AdapterSpec,
    BoxesSpec,
    CoModel,
    LayoutSpec,
    Part,
    PictureSpec,
    Settings,
    Spec,
    WordSpec,
    flat,
    infotext_label,
)

gr = pytest.importorskip("gradio")

from lib_amdm.webui import examples, layout_mount, panel, plan_line, presets, recipes  # noqa: E402
from lib_amdm.webui.api import read_args  # noqa: E402


class Page(FakeHost):
    """A WebUI with a page, that remembers its refresh buttons."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.buttons: dict[str, tuple[Any, Any, Any, Any]] = {}

    @contextmanager
    def input_accordion(self, value: bool, label: str, elem_id: str) -> Iterator[Any]:
        """As the WebUI's: a hidden checkbox that stands for an accordion's being open."""
        switch = gr.Checkbox(value, label=label, elem_id=f"{elem_id}-checkbox", visible=False)
        with gr.Accordion(label, open=value, elem_id=elem_id):
            yield switch

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any:
        return gr.Button(text, elem_id=elem_id)

    def refresh_button(self, component: Any, refresh: Any, choices: Any, elem_id: str) -> Any:
        button = gr.Button("refresh", elem_id=elem_id)
        self.buttons[elem_id] = (button, component, refresh, choices)
        return button


def build(host: FakeHost, slots: int = 3, tab: str = "txt2img") -> panel.Panel:
    return panel.build_panel(host, slots, tab, lambda name: f"script_{tab}_amdm_{name}")


def page_of(host: FakeHost, slots: int = 3) -> Any:
    with gr.Blocks() as demo:
        build(host, slots)
    return demo


def without_pictures() -> list[tuple[int, Spec]]:
    return [(slot, spec) for slot, spec in flat(3) if not isinstance(spec, PictureSpec)]


def settings_after(demo: Any, event: str, *given: Any) -> tuple[Settings, str, list[Any], list[Any]]:
    """The settings once an event has filled controls, what it says, what it keeps, and the controls' changes."""
    said, kept, *updates = clicked(demo, event)(*given)
    values = {key: update.get("value") for key, update in zip(without_pictures(), updates)}
    return read_args([values.get(key) for key in flat(3)]), said, kept, updates


OWN = [f"old {number}" for number, _ in enumerate(without_pictures())]
"""Values of a user's in all controls but pictures."""
MAIN_CONTROLS = (
    {"elem_id": "setting_sd_model_checkpoint", "label": "Stable Diffusion checkpoint"},
    {"label": "Checkpoint", "elem_classes": ["model_selection"]},
)
"""The ways in which WebUIs make their list of checkpoints."""


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def built(page: Page) -> panel.Panel:
    with gr.Blocks():
        return build(page)


def names(component: Any) -> list[str]:
    """The choices of a control; gradio keeps them as names or as pairs."""
    return [choice[0] if isinstance(choice, tuple) else choice for choice in component.choices]


def by_label(built: panel.Panel) -> dict[str, Any]:
    """The controls by the names under which the WebUI keeps their defaults."""
    return {f"{component.label}": component for component in built.components}


@pytest.mark.parametrize("slots", [1, 3, 10])
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_defaults_are_the_settings(page: Page, slots: int, tab: str) -> None:
    with gr.Blocks():
        values = [component.value for component in build(page, slots, tab).components]
    assert read_args(values) == Settings(co_models=(CoModel(),) * slots)
    assert json.loads(json.dumps(values)) == values
    # the WebUI's API casts to the type of the default when it reads an infotext
    pairs = [(value, spec) for value, (_, spec) in zip(values, flat(slots)) if not isinstance(spec, PictureSpec)]
    kinds = [str if isinstance(spec, WordSpec) else spec.type for _, spec in pairs]
    assert [type(value) for value, _ in pairs] == kinds


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_where_only_the_defaults_are_asked_for_no_control_is_made(page: Page, tab: str) -> None:
    """As the WebUI's API asks: with nothing around the panel."""
    with gr.Blocks() as demo:
        assert not panel.is_page()
        defaults = panel.defaults(3)
    assert not demo.blocks
    with gr.Blocks(), gr.Group():
        assert panel.is_page()
        built = build(page, tab=tab).components
    assert [default.value for default in defaults] == [component.value for component in built]
    assert [default.label for default in defaults[1:]] == [component.label for component in built[1:]]


def test_ranges_and_choices_are_those_of_the_settings(built: panel.Panel) -> None:
    for component, (slot, spec) in zip(built.components, flat(3)):
        assert (slot, spec.name) == (0, "enabled") or component.webui_tooltip == spec.help
        if isinstance(spec, WordSpec):  # no slider has a place for a word
            assert component.value == spec.word
            if spec.type is int:
                assert component.allow_custom_value and names(component)[0] == spec.word, spec.name
            else:
                assert isinstance(component, gr.Textbox) and component.placeholder, spec.name
        elif spec.minimum is not None:
            span = (component.minimum, component.maximum, component.step)
            assert span == (spec.minimum, spec.maximum, spec.step), spec.name
        if spec.choices:
            assert names(component) == list(spec.choices)


def test_captions_are_short_and_saved_under_unique_names(built: panel.Panel) -> None:
    shown = json.loads(json.dumps([component.label for component in built.components]))
    assert shown[:4] == ["AMDM", "steps", "evaluations", "eta"]
    assert max(map(len, shown)) < 22 and not any("co-model" in caption for caption in shown)
    labels = [f"{component.label}" for component in built.components]
    assert len(set(labels)) == len(labels)
    assert labels[:4] == ["AMDM", "AMDM steps", "AMDM evaluations", "AMDM eta"]
    expected = {"Gamma of co-model 1", "Gamma end of co-model 2", "CFG scale of co-model 2", "Use co-model 3"}
    assert expected | {f"{name} of co-model 3" for name in ("Region", "Mask", "Feather")} <= set(labels)


def test_it_can_be_built_again_and_again_with_ids_that_are_unique_on_the_page(page: Page) -> None:
    for _ in range(3):
        with gr.Blocks() as demo:
            for tab in ("txt2img", "img2img"):
                again = build(page, tab=tab)
        assert len(again.components) == len(list(flat(3)))
    counted = Counter(block.elem_id for block in demo.blocks.values() if getattr(block, "elem_id", None))
    assert [elem_id for elem_id, count in counted.items() if count > 1] == []
    demo.get_config_file()
    assert page.callbacks == {} and page.added == {}


def test_the_infotext_reaches_every_control(built: panel.Panel) -> None:
    said = [pair for pair in zip(built.components, flat(3)) if pair[1][1].shapes_picture]
    for (component, field), (made, (slot, spec)) in zip(built.infotext_fields, said, strict=True):
        assert component is made
        # a picture cannot come out of a text: its field tells of it, and sets nothing
        if isinstance(spec, PictureSpec):
            assert callable(field) and field({}) is None
        else:
            assert field == infotext_label(slot, spec)


def test_what_is_sent_pairs_up_between_the_tabs(page: Page) -> None:
    """The WebUI sends the values of one tab's fields to the other's, in their order."""
    with gr.Blocks():
        first, second = build(page), build(page, tab="img2img")
    assert first.paste_field_names == second.paste_field_names
    fields = [[name for _, name in one.infotext_fields if name in first.paste_field_names] for one in (first, second)]
    assert fields[0] == fields[1] == first.paste_field_names
    assert all(isinstance(name, str) for name in first.paste_field_names)
    # img2img has no hires pass
    assert by_label(first)["AMDM pass"].visible and not by_label(second)["AMDM pass"].visible
    assert "AMDM pass" not in [name for _, name in second.infotext_fields]
    assert len(second.components) == len(first.components)


def of_the_line(demo: Any, built: panel.Panel, slots: int, **given: Any) -> list[Any]:
    """The page's values for its line: the defaults except for these, by name and slot ("gamma_1")."""
    keys = {component._id: key for component, key in zip(built.components, flat(slots))}
    sent = [keys[component._id] for component in event(demo, "_say").inputs]
    return [given.get(f"{spec.name}_{slot}", spec.shown(spec.default)) for slot, spec in sent]


@pytest.mark.parametrize("made", MAIN_CONTROLS)
def test_the_line_and_the_marks_follow_the_pages_own_main_checkpoint(page: Page, made: dict[str, Any]) -> None:
    alpha, beta, _ = TITLES
    page.families, page.main = {alpha: Family("SD1"), beta: Family("SDXL", "inpainting")}, alpha
    lost = gr.Dropdown([*TITLES])
    with gr.Blocks() as demo:
        built = build(page, slots=1)
        assert not is_main_checkpoint(lost, made), "it is on no page"
        # the WebUI's refiner has the same caption, and no classes
        another = {"elem_id": "another", "label": "Checkpoint", "elem_classes": None}
        assert not is_main_checkpoint(gr.Dropdown([*TITLES]), another)
        before, control = len(demo.fns), gr.Dropdown([*TITLES])
        assert is_main_checkpoint(control, made)
        built.follow(control)
    assert len(demo.fns) == before + 1
    sent = of_the_line(demo, built, 1, enabled_0=True, checkpoint_1=beta)
    line, marks = clicked(demo, "chose_main")(alpha, *sent)
    assert "is SDXL inpainting, but the main checkpoint" in line and "beta" in marks
    assert (clicked(demo, "_say")(*sent), clicked(demo, "mark_if_on")(True)) == (line, marks)
    line, marks = clicked(demo, "chose_main")(beta, *sent)
    assert line == "" and "alpha" in marks
    assert clicked(demo, "_say")(False, *sent[1:]) == ""


@pytest.fixture(scope="module")
def of_two_slots() -> tuple[Any, panel.Panel]:
    with gr.Blocks() as demo:
        return demo, build(Page(), slots=2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"checkpoint_1": TITLES[1], "gamma_1": 0.0}, "raise gamma"),
        ({"checkpoint_1": TITLES[1], "gamma_1": 0.0, "gamma_end_1": "0.8"}, ""),
        ({"checkpoint_1": TITLES[1], "steps_0": "0"}, "raise steps"),
        ({"checkpoint_1": TITLES[1], "steps_0": "3", "start_0": 3}, "lower start"),
        ({"adapter_0": ADAPTERS[0]}, ""),
        ({"adapter_0": ADAPTERS[0], "strength_0": 0.0}, "strength 0"),
        ({"adapter_0": ADAPTERS[0], "until_0": 0.0}, "until 0"),
        ({"checkpoint_1": TITLES[1], "prompt_2": "a cat"}, "Co-model 2 has no checkpoint"),
        ({"checkpoint_1": TITLES[1], "adapter_2": ADAPTERS[0]}, "Co-model 2 has no checkpoint"),
        ({"checkpoint_1": "lost"}, "is not in the list"),
        ({"checkpoint_1": TITLES[1], "noise_1": "pixels"}, "5 evaluations"),
        ({"checkpoint_1": TITLES[1], "noise_1": "pixels", "evaluations_0": "3"}, "3 evaluations"),
        ({"checkpoint_1": TITLES[1], "noise_1": "pixels", "eta_1": 0.5}, "its eta is not used"),
        ({}, "choose a checkpoint"),
    ],
)
def test_the_line_knows_every_control_that_it_speaks_of(
    of_two_slots: tuple[Any, panel.Panel], given: dict[str, Any], said: str
) -> None:
    demo, built = of_two_slots
    line = clicked(demo, "_say")(*of_the_line(demo, built, 2, enabled_0=True, **given))
    assert said in line if said else line == ""


@pytest.mark.parametrize(
    ("label", "button_id", "listed", "files"),
    [
        ("Checkpoint of co-model 2", "refresh_2", ["None", "main", *TITLES], "titles"),
        ("AMDM main adapter", "refresh_adapters_0", ["None", *ADAPTERS], "adapters"),
        ("Adapter of co-model 2", "refresh_adapters_2", ["None", *ADAPTERS], "adapters"),
    ],
)
def test_a_list_of_files_and_its_refresh(
    page: Page, built: panel.Panel, label: str, button_id: str, listed: list[str], files: str
) -> None:
    component = by_label(built)[label]
    assert names(component) == listed
    assert component.allow_custom_value
    button, refreshed, refresh, choices = page.buttons[f"script_txt2img_amdm_{button_id}"]
    assert refreshed is component and button.do_not_save_to_config
    refresh()
    getattr(page, files).append("delta.safetensors")
    assert page.refreshed == 1
    assert choices() == {"choices": [*listed, "delta.safetensors"]}


@pytest.mark.parametrize(
    ("count", "words", "total"),
    [
        *((0, "0 bytes", "44 MB"), (999, "999 bytes", "44 MB"), (1_500, "2 KB", "44 MB"), (8e8, "800 MB", "844 MB")),
        (3.46e9, "3.5 GB", "3.5 GB"),
    ],
)
def test_what_is_in_memory_is_said_and_unloaded(page: Page, count: int, words: str, total: str) -> None:
    page.pool = [InMemory("checkpoint", "<b>eta</b>", count), InMemory("adapter", ADAPTERS[0], 44_000_000)]
    demo = page_of(page, slots=1)
    assert clicked(demo, "loaded")() == f"In memory: &lt;b&gt;eta&lt;/b&gt; ({words}), {ADAPTERS[0]} (44 MB)."
    assert clicked(demo, "unload")() == f"Unloaded: 2 ({total}). No co-model is in memory."
    assert clicked(demo, "loaded")() == "No co-model is in memory."


def event(demo: Any, name: str) -> Any:
    """The first of the page's events that call the function of this name."""
    events = demo.fns.values() if isinstance(demo.fns, dict) else demo.fns
    return next(event for event in events if getattr(event.fn, "__name__", "") == name)


def clicked(demo: Any, name: str) -> Any:
    """The function of this name among those the page calls."""
    return event(demo, name).fn


def test_a_prompts_tokens_are_counted_with_the_main_prompt_and_its_styles(page: Page) -> None:
    page.token_count = lambda text, styles, is_negative: f"{text}, {styles}, {is_negative}"
    count = clicked(page_of(page, 1), "counted")
    place = '<p class="amdm-tokens" data-prompt="script_txt2img_amdm_prompt_1">{}</p>'.format
    assert count("{prompt}, round {style:old}", "a cat") == place("a cat, round, ['old'], False")
    assert count("a dog") == place("a dog, [], False")


@pytest.mark.parametrize(
    ("adapter", "checkpoint", "chosen"),
    [("None", "None", "None"), (ADAPTERS[0], "None", "main"), (ADAPTERS[0], "x", "x"), ("None", "x", "x")],
)
def test_an_adapter_is_meant_for_the_main_checkpoint_where_none_is_chosen(
    page: Page, adapter: str, checkpoint: str, chosen: str
) -> None:
    demo = page_of(page, slots=1)
    assert clicked(demo, "choose")(adapter, checkpoint) == chosen


def test_each_layout_has_a_place_for_its_editor_which_knows_what_the_chosen_file_takes(page: Page) -> None:
    with gr.Blocks() as demo:
        built = build(page)
    places = [block.value for block in demo.blocks.values() if "amdm-layout" in str(getattr(block, "value", ""))]
    fields = {
        kind: [c.elem_id for c, (_, spec) in zip(built.components, flat(3)) if isinstance(spec, kind)]
        for kind in (LayoutSpec, BoxesSpec)
    }
    named = [re.findall(r'data-(\w+)="(.*?)"', place) for place in places]
    expected = [[("field", field)] for field in fields[LayoutSpec]]
    assert sorted(named) == sorted([*expected, *([("field", f), ("kind", "region")] for f in fields[BoxesSpec])])
    mounted = layout_mount.mount(page, "field", ADAPTERS[1])
    assert dict(re.findall(r'data-(\w+)="(.*?)"', mounted)) == {"field": "field", "adapter": ADAPTERS[1], "boxes": "30"}
    for nothing in ("lost.safetensors", "None", None):
        assert "adapter" not in layout_mount.mount(page, "field", nothing)
    assert "<b>" not in layout_mount.mount(page, '"><b>', None)


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
def test_an_example_fills_every_control_but_pictures(page: Page, preset: presets.Preset) -> None:
    before = [f"old {number}" for number, _ in enumerate(flat(3))]
    settings, said, kept, updates = settings_after(page_of(page), "filled", preset.name, [], *before)
    assert kept == [before]
    words = [update["value"] for update, (_, spec) in zip(updates, without_pictures()) if isinstance(spec, WordSpec)]
    assert {type(value) for value in words} == {str}
    expected = preset.with_files(ADAPTERS)
    assert settings.co_models[: len(expected.co_models)] == expected.co_models
    assert settings.main_adapter == expected.main_adapter
    assert settings.main_adapter.adapter == ADAPTERS[1], "the user's own file stands in for the published name"
    assert (settings.enabled, settings.steps, settings.evaluations, settings.eta) == (True, 3, 0, expected.eta)
    assert str(preset.sampling_steps) in said
    for name in ("MIGC_SD14.ckpt", "ip-adapter_sd15.safetensors"):
        used = any(slot.adapter == name for slot in expected.co_models)
        assert (f"{name} is missing: put it into models/amdm" in said) == (used and name not in ADAPTERS)


def test_examples_are_taken_back_to_the_users_own(page: Page) -> None:
    """Whatever was pressed in between."""
    demo = page_of(page)
    filled, taken_back = clicked(demo, "filled"), clicked(demo, "taken_back")
    kept: Any = []
    values = OWN
    for name in (*examples.NAMES, None, examples.NAMES[-1], "unknown"):
        _, kept, *updates = filled(name, kept, *values)
        values = [update.get("value", value) for update, value in zip(updates, values)]
    assert values != OWN
    for _ in examples.NAMES:
        said, kept, *updates = taken_back(kept)
        values = [update["value"] for update in updates]
        assert said == ""
    assert values == OWN and not kept
    assert "nothing to take back" in taken_back([])[0]


def test_the_example_of_two_checkpoints_takes_what_the_user_has(page: Page) -> None:
    alpha, beta, gamma = page.titles

    def filled() -> tuple[Settings, str]:
        return settings_after(page_of(page), "filled", examples.NAMES[0], [], *[None for _ in OWN])[:2]

    page.main, page.families = alpha, {alpha: Family("SD1"), beta: Family("SDXL")}
    settings, said = filled()
    assert settings == Settings(enabled=True, co_models=(CoModel(checkpoint=gamma), CoModel(), CoModel()))
    assert gamma in said and "Generate" in said
    assert plan_line.say(settings, page) == ""
    # one that says that it fits comes before one that says nothing
    page.families = {title: Family("SDXL") for title in (alpha, gamma)}
    assert filled()[0].co_models[0].checkpoint == gamma
    page.families = {title: Family("SDXL") for title in (alpha, beta)}
    assert filled()[0].co_models[0].checkpoint == beta
    # the main one is known by its file
    page.main, page.families = "styles/beta.safetensors", {}
    assert filled()[0].co_models[0].checkpoint == alpha
    page.titles = [beta]
    settings, said = filled()
    assert settings.co_models[0].checkpoint == "main" and "another prompt" in said


def test_a_recipe_keeps_a_checkpoint_that_is_chosen_and_says_the_rest_in_lines(page: Page) -> None:
    page.main = page.titles[0]
    three = recipes.RECIPES[-1]
    own = dict.fromkeys(without_pictures())
    by_name = {(slot, spec.name): (slot, spec) for slot, spec in own}
    values = own | {by_name[2, "checkpoint"]: page.titles[1], by_name[3, "checkpoint"]: page.titles[2]}
    settings, said, _, _ = settings_after(page_of(page), "filled", three.name, [], *values.values())
    # co-model 3 is not in the recipe, so its checkpoint is free for co-model 1
    expected = replace(three.settings.co_models[0], checkpoint=page.titles[2])
    assert settings.co_models == (expected, CoModel(checkpoint=page.titles[1]), CoModel())
    assert said.split("<br>")[-2:] == [f"Change first: {three.change}", recipes.UNPROVEN]


def test_an_example_that_needs_more_slots_changes_nothing(page: Page) -> None:
    demo = page_of(page, slots=1)
    said, kept, *updates = clicked(demo, "filled")(presets.PRESETS[-1].name, [["own"]])
    assert "more co-models" in said and kept == [["own"]]
    assert not any("value" in update for update in updates)
    assert "Choose" in clicked(demo, "filled")(None, [])[0]


@pytest.mark.parametrize(
    ("typed_in", "steps", "end"),
    [(("auto", ""), "auto", None), ((" Auto ", " "), "auto", None), (("7", "0.3"), 7, 0.3)],
)
def test_what_a_user_types_is_read(page: Page, typed_in: tuple[str, str], steps: int | str, end: float | None) -> None:
    with gr.Blocks():
        values = {f"{component.label}": component.value for component in build(page, slots=1).components}
    typed = {"AMDM steps": typed_in[0], "AMDM evaluations": typed_in[0], "Gamma end of co-model 1": typed_in[1]}
    settings = read_args(list((values | typed).values()))
    assert (settings.steps, settings.evaluations, settings.co_models[0].gamma_end) == (steps, steps, end)


@pytest.mark.parametrize("cleared", [None, "", "  "], ids=["nothing", "empty", "blank"])
def test_a_number_that_was_cleared_is_its_default(page: Page, cleared: Any) -> None:
    with gr.Blocks():
        built = build(page)
    numbers = [spec.type in (int, float) for _, spec in flat(3)]
    assert sum(numbers) > 20
    values = [cleared if number else control.value for number, control in zip(numbers, built.components)]
    assert read_args(values) == Settings(co_models=(CoModel(),) * 3)


def test_a_start_may_be_given_and_is_what_the_controls_show(page: Page) -> None:
    start = Settings(steps=5, co_models=(CoModel(gamma_end=0.3, region="0 0 0.5 1", feather=0.25),))
    with gr.Blocks():
        built = panel.build_panel(page, 2, "txt2img", str, start)
    assert read_args([component.value for component in built.components]) == Settings(
        steps=5, co_models=(*start.co_models, CoModel())
    )


def test_a_region_is_drawn_where_it_is_given(page: Page) -> None:
    demo = page_of(page, slots=1)
    drawn = clicked(demo, "region_preview")
    assert "<svg" in drawn("0 0 0.5 1", None, 0.1)
    assert "<svg" not in drawn("", None, 0)


def test_a_masks_transparency_is_kept_by_its_control(built: panel.Panel) -> None:
    """gradio makes of a picture what its control's mode says; of an opaque picture the brightness counts."""
    control = by_label(built)["Mask of co-model 1"]
    clear, white = Image.new("RGBA", (2, 1), (0, 0, 0, 0)), Image.new("L", (2, 1), 255)
    clear.putpixel((1, 0), (0, 0, 0, 255))
    white.putpixel((0, 0), 0)
    for picture in (clear, white):
        values = [component.value for component in built.components]
        values[built.components.index(control)] = picture.convert(control.image_mode)
        mask = read_args(values).co_models[0].mask
        assert list(mask_of(mask, "AMDM").tobytes()) == [0, 255]


def test_only_what_an_adapter_takes_is_shown(page: Page) -> None:
    demo = page_of(page)
    chose = clicked(demo, "chose")

    def shown(name: str | None, layout: str = "") -> list[bool]:
        """Return True for each of the picture, the layout and the common settings that is shown."""
        return [update["visible"] for update in chose(name, layout)[1:]]

    assert [shown(name) for name in ADAPTERS] == [[True, False, True], [False, True, True]]
    assert [shown(nothing) for nothing in ("None", "", None)] == [[False] * 3] * 3
    assert shown("lost.safetensors") == [True] * 3
    # a layout that would be refused can be corrected
    assert shown("None", "a boy: 0") == [False, True, False] and shown("None", "a boy: 0 0 1 1") == [False] * 3


@pytest.mark.parametrize(("adapter", "parts"), [("None", 0), (ADAPTERS[0], 2), (ADAPTERS[1], 2), ("lost", 3)])
def test_an_adapters_fold_is_one_line_until_a_file_is_chosen(page: Page, adapter: str, parts: int) -> None:
    start = Settings(main_adapter=AdapterSettings(adapter=adapter), co_models=(CoModel(adapter=adapter),))
    with gr.Blocks() as demo:
        built = panel.build_panel(page, 1, "txt2img", str, start)

    def is_hidden(component: Any) -> bool:
        return not component.visible or (component.parent is not None and is_hidden(component.parent))

    for slot in (0, 1):
        of_adapter = [
            (spec, control)
            for control, (number, spec) in zip(built.components, flat(1))
            if number == slot and spec.part is Part.ADAPTER and not isinstance(spec, AdapterSpec)
        ]
        seen = {type(spec) for spec, control in of_adapter if not is_hidden(control)}
        assert len(seen) == parts and len(of_adapter) == 4
    # a user's own default is chosen by no event: what it takes is shown once the panel is opened
    again = clicked(demo, "opened_adapters")(True, *[ADAPTERS[0], ""] * 2)
    assert [update["visible"] for update in again if isinstance(update, dict)] == [True, False, True] * 2
    left_alone = clicked(demo, "opened_adapters")(False, *["None", ""] * 2)
    assert not any("visible" in update for update in left_alone)
