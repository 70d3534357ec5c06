"""A new setting is one field of the settings: panel, infotext, API and schema have it with no change of theirs.

The settings have further fields here, one of each kind that a dataclass can take more of, under names and labels that
nothing outside this file knows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fake_host import FakeHost
from PIL import Image

from lib_amdm import settings as defined
from lib_amdm.files.pictures import fingerprint
from lib_amdm.settings import (
    AdapterSettings,
    CoModel,
    Part,
    PictureSpec,
    Settings,
    WideNumberSpec,
    WordSpec,
    flat,
    full_name,
    infotext_label,
    setting,
    specs,
)

gr = pytest.importorskip("gradio")

from test_panel import Page, build  # noqa: E402

from lib_amdm.webui import infotext, presets  # noqa: E402
from lib_amdm.webui.api import read_args  # noqa: E402

RED = Image.new("RGB", (3, 2), (255, 0, 0))


@dataclass(frozen=True)
class Fields:
    """A field of each kind of which there may be several."""

    q_number: float = setting(0.25, "A new number.", span=(0.0, 1.0, 0.05))
    q_word: int = setting(-7, "A new number or word.", WordSpec, word="never", meaning=-7, span=(0, 9, 1))
    q_wide: float = setting(2.0, "A new wide number.", WideNumberSpec, span=(0.0, 900.0, 0.5))
    q_switch: bool = setting(False, "A new switch.")
    q_choice: str = setting("left", "A new choice.", choices=("left", "middle", "right"))
    q_text: str = setting("", "A new text.", lines=3)
    q_hires: str = setting("", "A new text of the hires pass.", hires_fix=True)
    q_folded: str = setting("", "A new text that is seldom changed.", part=Part.SELDOM)


@dataclass(frozen=True)
class Places:
    """Fields of a slot, in the parts of the panel that a slot has."""

    q_picture: str = setting("", "A new picture.", PictureSpec)
    q_region: str = setting("", "A new picture of the region.", PictureSpec, transparent=True, part=Part.REGION)
    q_feather: float = setting(0.0, "A new number of the region.", span=(0.0, 1.0, 0.1), part=Part.REGION)


@dataclass(frozen=True)
class AdaptersFields:
    """Fields of an adapter, on whichever model."""

    q_reference: str = setting("", "A new picture of the adapter.", PictureSpec, part=Part.ADAPTER)
    q_weight: float = setting(1.0, "A new number of the adapter.", span=(0.0, 2.0, 0.1), part=Part.ADAPTER)


@dataclass(frozen=True)
class WiderAdapter(AdaptersFields, AdapterSettings):
    pass


@dataclass(frozen=True)
class WiderCoModel(AdaptersFields, Places, Fields, CoModel):
    @property
    def adapter_settings(self) -> AdapterSettings:
        return WiderAdapter(**{spec.attribute: getattr(self, spec.attribute) for spec in specs(WiderAdapter)})


@dataclass(frozen=True)
class WiderSettings(Fields, Settings):
    main_adapter: AdapterSettings = WiderAdapter()


@pytest.fixture(autouse=True)
def wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the wider dataclasses in the place of the settings, wherever these are imported."""
    instead = {Settings: WiderSettings, AdapterSettings: WiderAdapter, CoModel: WiderCoModel}
    for name, module in list(sys.modules.items()):
        if name.startswith("lib_amdm."):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in instead:
                    monkeypatch.setattr(module, attribute, instead[value])
    monkeypatch.setattr(presets, "PRESETS", ())


def new(slots: int) -> Iterator[tuple[int, int, defined.Spec]]:
    """The new settings among the controls: their place in the plain list, their slot, themselves."""
    for index, (slot, spec) in enumerate(flat(slots)):
        if spec.name.startswith("q_"):
            yield index, slot, spec


def a_value(spec: defined.Spec) -> object:
    """A value other than the default, as a control of the panel holds it."""
    if isinstance(spec, PictureSpec):
        return RED
    if isinstance(spec, WordSpec):
        return "3"
    if spec.choices:
        return spec.choices[-1]
    return {bool: True, float: 0.75, str: "new, too"}[spec.type]


def suitable(spec: defined.Spec) -> type:
    """The control for a setting."""
    word = gr.Dropdown if spec.type is int else gr.Textbox
    kinds = {PictureSpec: gr.Image, WordSpec: word, WideNumberSpec: gr.Number}
    types = {bool: gr.Checkbox, float: gr.Slider, str: gr.Dropdown if spec.choices else gr.Textbox}
    return kinds.get(type(spec)) or types[spec.type]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_the_panel_has_a_control_of_its_kind_with_its_default(tab: str) -> None:
    with gr.Blocks():
        built = build(Page(), 2, tab)
    assert len(list(new(2))) == 8 + 2 + 2 * (8 + 3 + 2)
    for index, slot, spec in new(2):
        control: Any = built.components[index]
        assert isinstance(built.components[index], suitable(spec)), spec.name
        assert control.value == (None if isinstance(spec, PictureSpec) else spec.shown(spec.default))
        assert control.webui_tooltip == spec.help
        assert control.visible == (tab == "txt2img" or not spec.hires_fix)
        assert control.elem_id.endswith(f"{spec.name}_{slot}" if slot else spec.name)
        if isinstance(spec, PictureSpec):
            assert control.image_mode == ("RGBA" if spec.transparent else "RGB")
    assert read_args([control.value for control in built.components]) == WiderSettings(co_models=(WiderCoModel(),) * 2)


def test_the_page_gives_its_value_and_the_picture_tells_it() -> None:
    values = [spec.shown(spec.default) for _, spec in flat(1)]
    for index, _, spec in new(1):
        values[index] = a_value(spec)
    named = {(slot, spec.name): index for index, (slot, spec) in enumerate(flat(1))}
    values[named[0, "enabled"]], values[named[1, "checkpoint"]] = True, "main"
    values[named[0, "adapter"]] = values[named[1, "adapter"]] = "ip.safetensors"
    settings = read_args(values)
    assert WiderSettings.from_dict(settings.to_dict()) == settings
    entries = infotext.written(settings, {})
    for index, slot, spec in new(1):
        value = settings.value(slot, spec)
        if isinstance(spec, PictureSpec):
            assert len(value) > 20 and entries[infotext_label(slot, spec)] == fingerprint(value)
        else:
            assert value == spec.check(values[index], spec.name) != spec.default
            assert entries[infotext_label(slot, spec)] == infotext.as_text(spec.shown(value))


def test_pasting_sets_it_and_leaves_a_picture_alone() -> None:
    with gr.Blocks():
        built = build(Page(), 1)
    params: dict[str, object] = {"AMDM": "True"}
    infotext.expand(params, 1, FakeHost())
    for index, slot, spec in new(1):
        label = infotext_label(slot, spec)
        field = next(field for control, field in built.infotext_fields if control is built.components[index])
        assert params[label] == infotext.as_text(spec.shown(spec.default))
        if isinstance(spec, PictureSpec):
            assert callable(field) and field({}) is None
        else:
            assert field == label
        assert (label in built.paste_field_names) == (not isinstance(spec, PictureSpec) and not spec.hires_fix)


def test_what_is_no_picture_is_refused_by_its_place_in_the_api() -> None:
    values = [spec.shown(spec.default) for _, spec in flat(1)]
    for index, slot, spec in new(1):
        if isinstance(spec, PictureSpec):
            with pytest.raises(Exception, match="must be a picture") as caught:
                read_args([object() if place == index else value for place, value in enumerate(values)])
            assert f'"{full_name(slot, spec)}"' in str(caught.value)


def test_the_schema_describes_it() -> None:
    schema = WiderSettings.schema()["properties"]
    main, slot = schema["main_adapter"]["properties"], schema["co_models"]["items"]["properties"]
    for _, number, spec in new(1):
        where = slot if number else main if spec in specs(WiderAdapter) else schema
        assert where[spec.name] == spec.schema()
