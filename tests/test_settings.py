"""The settings: what is taken, what is refused and in which words, and what the panel and the infotext read of them."""

from __future__ import annotations

import functools
import json
import math
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_amdm.layout import EXAMPLE, boxes_of
from lib_amdm.settings import (
    AUTO,
    MAIN_CHECKPOINT,
    MAX_SLOTS,
    NO_CHECKPOINT,
    AdapterSettings,
    CoModel,
    Settings,
    SettingsError,
    Spec,
    WordSpec,
    flat,
    full_name,
    infotext_label,
    named,
    specs,
)

ALL = [(of, spec) for of in (Settings, AdapterSettings, CoModel) for spec in specs(of)]
NUMBERS = [(of, spec) for of, spec in ALL if spec.minimum is not None]
BOTH = pytest.mark.parametrize(("of", "spec"), ALL, ids=lambda value: getattr(value, "name", None))
EACH_NUMBER = pytest.mark.parametrize(("of", "spec"), NUMBERS, ids=lambda value: getattr(value, "name", None))


LAYOUTS = ["", EXAMPLE, '[{"phrase": "a red, round ball: a", "box": [0, 0.25, 1, 1]}]', "[]"]
REGIONS = [
    "",
    "0 0 0.5 1",
    "a sign: STOP: 0, 0, 1, 0.5\n\n.5 .5 1 1",
    "[[0, 0, 0.5, 1]]",
    "[]",
    EXAMPLE.splitlines()[0],
]
WORDS = [(of, spec) for of, spec in ALL if isinstance(spec, WordSpec)]
EACH_WORD = pytest.mark.parametrize(("of", "spec"), WORDS, ids=lambda value: getattr(value, "name", None))


def value_of(spec: Spec, relative: bool) -> st.SearchStrategy[Any]:
    if spec.choices:
        return st.sampled_from(spec.choices)
    if spec.type is bool:
        return st.booleans()
    if spec.name in ("layout", "region"):
        return st.sampled_from(LAYOUTS if spec.name == "layout" else REGIONS)
    if spec.type is str:
        return st.text(max_size=20) | st.sampled_from([NO_CHECKPOINT, MAIN_CHECKPOINT, ""])
    top = 1 if relative and spec.name == "eta" else spec.maximum
    whole = st.integers(int(spec.minimum), int(top))
    numbers = whole if spec.type is int else whole | st.floats(spec.minimum, top)
    if not isinstance(spec, WordSpec):
        return numbers
    return numbers | st.just(spec.meaning) | st.sampled_from([spec.word, f" {spec.word.title()}\n", "1", "0.0", " 1. "])


def meant(spec: Spec, given: Any) -> Any:
    """The value that a setting has once it was told `given`: a word or a number that was told as a text is read."""
    if not isinstance(spec, WordSpec) or not isinstance(given, str):
        return given
    return spec.meaning if given.strip().lower() == spec.word else float(given)


def kinds(spec: Spec) -> tuple[type, ...]:
    return (spec.type, type(spec.meaning)) if isinstance(spec, WordSpec) else (spec.type,)


@st.composite
def valid(draw: st.DrawFn) -> dict[str, Any]:
    """Settings as the API takes them, any of them left out."""
    relative = draw(st.booleans())
    fixed = {} if relative else {"correction": st.just("paper")}

    def some(of: type, fixed: dict[str, Any], left_out: tuple[str, ...] = ()) -> dict[str, Any]:
        values = {spec.name: value_of(spec, relative) for spec in specs(of) if spec.name not in left_out}
        return draw(st.fixed_dictionaries(fixed, optional={k: v for k, v in values.items() if k not in fixed}))

    given = some(Settings, fixed, ("correction",))
    given |= {"co_models": [some(CoModel, {}) for _ in range(draw(st.integers(0, 3)))]}
    return given | ({"main_adapter": some(AdapterSettings, {})} if draw(st.booleans()) else {})


def holding(of: type, name: str, value: Any) -> dict[str, Any]:
    """Settings with one value set, in the main settings, in the main adapter's, or in the second of two slots."""
    nested = {AdapterSettings: {"main_adapter": {name: value}}, CoModel: {"co_models": [{}, {name: value}]}}
    return nested.get(of, {name: value})


def holder(of: type, settings: Settings) -> Any:
    return {AdapterSettings: settings.main_adapter, Settings: settings}.get(of) or settings.co_models[1]


def path(of: type, spec: Spec) -> str:
    return spec.name + {Settings: "", AdapterSettings: " of main_adapter", CoModel: " of co-model 2"}[of]


def refused(given: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings.from_dict(given)
    told = str(caught.value)
    assert told.startswith("AMDM: ")
    assert told.endswith(".")
    assert not re.search(r"[.!?]\s|\n", told), f"more than one sentence: {told}"
    assert len(told) <= 500
    assert told.encode()
    return told


@given(valid())
def test_a_dict_of_the_settings_gives_the_same_settings(given: dict) -> None:
    settings = Settings.from_dict(given)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@given(valid())
def test_every_given_value_is_kept_and_every_other_is_the_default(given: dict) -> None:
    told = Settings.from_dict(given).to_dict()
    for spec in specs(Settings):
        assert told[spec.name] == meant(spec, given.get(spec.name, spec.default))
        assert type(told[spec.name]) in kinds(spec)
    for spec in specs(AdapterSettings):
        assert told["main_adapter"][spec.name] == given.get("main_adapter", {}).get(spec.name, spec.default)
    assert len(told["co_models"]) == len(given["co_models"])
    for slot, given_slot in zip(told["co_models"], given["co_models"]):
        for spec in specs(CoModel):
            assert slot[spec.name] == meant(spec, given_slot.get(spec.name, spec.default))
            assert type(slot[spec.name]) in kinds(spec)


@given(valid())
def test_the_plain_list_in_the_panels_order_gives_the_same_settings(given: dict) -> None:
    settings = Settings.from_dict(given)
    values = [settings.value(slot, spec) for slot, spec in flat(len(settings.co_models))]
    assert Settings.from_list(values) == settings
    shown = [spec.shown(value) for value, (_, spec) in zip(values, flat(len(settings.co_models)))]
    assert Settings.from_list(shown) == settings, "as the page's controls have them"


def test_nothing_given_is_the_default() -> None:
    assert Settings.from_dict({}) == Settings()
    assert Settings.from_list([spec.default for _, spec in flat(0)]) == Settings()


@BOTH
def test_null_is_the_default(of: type, spec: Spec) -> None:
    """What a page's number field holds once a user has cleared it, also that of a slot that is not used."""
    given = holding(of, spec.name, None)
    assert Settings.from_dict(given) == Settings.from_dict(holding(of, spec.name, spec.default))
    assert validator().is_valid(given)
    values = [None if one == spec else one.default for _, one in flat(2)]
    assert Settings.from_list(values) == Settings(co_models=(CoModel(),) * 2)


def test_null_in_the_place_of_everything_nested_is_the_default() -> None:
    for body in ({"main_adapter": None, "co_models": None}, {"main_adapter": None}, {"co_models": None}):
        assert Settings.from_dict(body) == Settings()
        assert validator().is_valid(body)
    assert Settings.from_list([None] * len(list(flat(3)))) == Settings(co_models=(CoModel(),) * 3)


def test_reading_settings_changes_nothing_given() -> None:
    given = {"steps": 5, "co_models": [{"checkpoint": "a"}]}
    Settings.from_dict(given)
    assert given == {"steps": 5, "co_models": [{"checkpoint": "a"}]}


def test_defaults_are_the_documented_ones() -> None:
    settings, slot = Settings(), CoModel()
    assert (settings.enabled, settings.steps, settings.evaluations) == (False, AUTO, AUTO)
    assert (settings.eta, settings.which_pass) == (0.0, "first")
    assert (settings.start, settings.correction, settings.co_models) == (0, "relative", ())
    assert (slot.enabled, slot.gamma, slot.eta, slot.noise, slot.cfg_scale) == (True, 0.5, 0.0, "shared", 0.0)
    assert (slot.gamma_end, slot.region, slot.mask, slot.feather) == (None, "", "", 0.0)
    assert (slot.prompt, slot.negative_prompt) == ("", "")


@functools.cache
def validator() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(Settings.schema())
    return jsonschema.Draft202012Validator(Settings.schema())


@given(valid())
def test_what_is_taken_fits_the_schema(given: dict) -> None:
    Settings.from_dict(given)
    assert validator().is_valid(given)
    assert validator().is_valid(Settings.from_dict(given).to_dict())


def outside(spec: Spec) -> list[Any]:
    """Values that a setting must refuse."""
    word = isinstance(spec, WordSpec)
    wrong: list[Any] = [{}, [{}] if spec.name in ("layout", "region") else []]
    if word:
        wrong += ["much", f"{spec.word}1x", "1 2", "1,5", "nan", "inf", "1_0", "--1", "."] + ([""] if spec.word else [])
    elif spec.type is not str:
        wrong += ["1", ""]
    if spec.type in (int, float):
        wrong += [True, False]
    if spec.type in (bool, str):
        wrong += [0, 1, 0.5]
    if spec.type is int:
        wrong += [spec.minimum + 0.5]
    if spec.choices:
        wrong += ["nothing of the kind", spec.choices[0].upper(), ""]
    if spec.minimum is not None:
        wrong += [spec.minimum - 2, spec.maximum + 1, -(10**400), 10**400, 1e308]
        wrong += [spec.minimum - 1] if not word or spec.meaning != spec.minimum - 1 else []
    return wrong


@BOTH
def test_the_schema_and_from_dict_refuse_the_same_and_the_sentence_names_the_setting(of: type, spec: Spec) -> None:
    for value in outside(spec):
        assert f'"{path(of, spec)}"' in refused(holding(of, spec.name, value))
        assert not validator().is_valid(holding(of, spec.name, value)), value


@EACH_NUMBER
def test_the_ends_of_a_range_belong_to_it(of: type, spec: Spec) -> None:
    for value in (spec.minimum, spec.maximum):
        given = {**holding(of, spec.name, value), "correction": "paper"}
        Settings.from_dict(given)
        assert validator().is_valid(given)


@EACH_NUMBER
def test_what_is_no_number_is_refused(of: type, spec: Spec) -> None:
    for value in (math.nan, math.inf, -math.inf):
        assert f'"{path(of, spec)}"' in refused(holding(of, spec.name, value))


@BOTH
def test_a_whole_number_may_be_written_either_way(of: type, spec: Spec) -> None:
    if spec.type not in (int, float):
        return
    whole = 1 if spec.maximum >= 1 else 0
    for value in (whole, float(whole)):
        settings = Settings.from_dict(holding(of, spec.name, value))
        kept = getattr(holder(of, settings), spec.attribute)
        assert kept == whole
        assert type(kept) is spec.type


def kept(of: type, spec: Spec, value: Any) -> Any:
    return getattr(holder(of, Settings.from_dict(holding(of, spec.name, value))), spec.attribute)


@pytest.mark.parametrize("name", ["steps", "evaluations"])
@pytest.mark.parametrize("told", ["auto", "AUTO", " Auto\n"])
def test_auto_is_a_word(name: str, told: Any) -> None:
    assert getattr(Settings.from_dict({name: told}), name) == AUTO
    assert Settings().to_dict()[name] == "auto" == schema_default(name)
    assert validator().is_valid({name: told})


def schema_default(name: str) -> Any:
    return Settings.schema()["properties"][name]["default"]


@pytest.mark.parametrize("name", ["steps", "evaluations"])
@pytest.mark.parametrize("told", [-1, -2, -1.0, "-1"])
def test_no_number_stands_for_auto(name: str, told: Any) -> None:
    assert f'"{name}" must be from 0 to 150 or "auto", but it is' in refused({name: told})
    assert isinstance(told, str) or not validator().is_valid({name: told})


@pytest.mark.parametrize("told", [None, "", " \n"])
def test_a_gamma_that_stays_has_an_empty_end(told: Any) -> None:
    given = {"co_models": [{"gamma": 0.3, "gamma_end": told}]}
    assert Settings.from_dict(given).co_models[0].gamma_end is None
    assert validator().is_valid(given)
    assert json.loads(json.dumps(Settings.from_dict(given).to_dict()))["co_models"][0]["gamma_end"] is None


@EACH_WORD
def test_a_number_may_be_told_as_a_text_within_its_range(of: type, spec: WordSpec) -> None:
    for told, value in (("1", 1), (" 1.0 ", 1), ("0", 0), ("1e0", 1), (repr(spec.maximum), spec.maximum)):
        assert kept(of, spec, told) == value
        assert type(kept(of, spec, told)) is spec.type
        assert validator().is_valid(holding(of, spec.name, told))
    for told in (f"{spec.maximum + 1}", "-2", "9" * 400):
        assert f'"{path(of, spec)}"' in refused(holding(of, spec.name, told))


@EACH_WORD
def test_what_is_shown_of_a_word_or_a_number_is_read_again(of: type, spec: WordSpec) -> None:
    assert spec.shown(spec.meaning) == spec.word
    for value in (spec.minimum, spec.maximum, 0.1 + 0.2 if spec.type is float else 14):
        assert kept(of, spec, spec.shown(value)) == value
    assert spec.shown(spec.type(1)) == "1", "no point where there is nothing behind it"


def test_a_text_that_is_neither_is_told_which_word_would_do() -> None:
    assert 'a whole number or "auto"' in refused({"steps": "some"})
    assert "a number or empty" in refused({"co_models": [{"gamma_end": "none"}]})


THIRD = {"phrase": "a ball", "box": [0, 0, 1 / 3, 0.123456789]}


@pytest.mark.parametrize("rows", [[THIRD, [0.5, 0.5, 1, 1]], [THIRD["box"]], []])
def test_a_region_may_be_a_list_and_is_kept_as_a_text_of_the_same_boxes(rows: list) -> None:
    given = {"co_models": [{"region": rows}]}
    region = Settings.from_dict(given).co_models[0].region
    assert isinstance(region, str)
    assert boxes_of(region) == boxes_of(rows)
    assert validator().is_valid(given)


@given(st.lists(st.tuples(*[st.tuples(st.floats(0, 1), st.floats(0, 1)).filter(lambda ends: ends[0] < ends[1])] * 2)))
def test_the_text_of_a_list_has_the_very_same_numbers(ends: list) -> None:
    boxes = [(x0, y0, x1, y1) for (x0, x1), (y0, y1) in ends]
    settings = Settings.from_dict({"co_models": [{"region": [list(box) for box in boxes]}]})
    assert boxes_of(settings.co_models[0].region) == boxes


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ("0 0 1 1\n0 0 1", "row 2"),
        ("here", "row 1"),
        ("0.5 0 0.5 1", "row 1 whose box is empty"),
        ("[[0, 0, 1, 1]", "is not JSON"),
        ([[0, 0, 1, 1], {"phrase": "a"}], "row 2"),
        ([[0, 0, 512, 512]], "row 1 whose box is not four numbers from 0 to 1"),
        (["0 0 1 1"], "row 1"),
    ],
)
def test_a_bad_box_of_a_region_is_named(region: Any, told: str) -> None:
    assert f'"region of co-model 2" {"" if "JSON" in told else "has a "}{told}' in refused(
        {"co_models": [{}, {"region": region}]}
    )


@pytest.mark.parametrize("name", ["Steps", "step", "gamma", "which_pass", "", "__class__"])
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    told = refused({name: 1})
    assert f'"{name}"' in told
    assert all(spec.name in told for spec in specs(Settings))
    assert "co_models" in told and "main_adapter" in told
    assert not validator().is_valid({name: 1})


def test_an_unknown_setting_of_a_slot_is_refused_by_name() -> None:
    given = {"co_models": [{}, {"weight": 1}]}
    told = refused(given)
    assert '"weight of co-model 2"' in told
    assert all(spec.name in told for spec in specs(CoModel))
    assert not validator().is_valid(given)


@pytest.mark.parametrize("slots", ["main", {"checkpoint": "main"}, 3])
def test_co_models_must_be_a_list(slots: Any) -> None:
    assert '"co_models"' in refused({"co_models": slots})
    assert not validator().is_valid({"co_models": slots})


@pytest.mark.parametrize("slot", [None, "main", ["main"], 3])
def test_a_slot_must_be_an_object(slot: Any) -> None:
    assert '"co-model 2"' in refused({"co_models": [{}, slot]})
    assert not validator().is_valid({"co_models": [{}, slot]})


@pytest.mark.parametrize("given", [None, [], "AMDM", 3, True])
def test_the_settings_must_be_an_object(given: Any) -> None:
    refused(given)
    assert not validator().is_valid(given)


def loop() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


def deep() -> list[Any]:
    own: list[Any] = []
    for _ in range(100_000):
        own = [own]
    return own


HOSTILE = [
    10**400,
    -(10**5000),
    "9" * 3_000_000,
    " " * 1_000_000 + "1" + " " * 1_000_000,
    "x" * 3_000_000,
    "a. b\n\u2028\ud800",
    ["x" * 3_000_000],
    loop(),
    deep(),
    {1: 2, None: 3},
    {"\ud800" * 600: 1},
    b"1" * 3_000_000,
    {1, 2},
    object(),
    1j,
    range(10**9),
    np.array([-1.0, 2.0]),
    np.float32("nan"),
]


def said(read: Any, given: Any) -> str:
    """What the refusal says, which has to be one line of bounded length; empty where it is taken."""
    try:
        settings = read(given)
    except SettingsError as error:
        told = str(error)
        assert told.startswith("AMDM: ") and told.endswith(".")
        assert len(told) <= 500 and len(told.splitlines()) == 1
        told.encode()
        return told
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings
    return ""


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_whatever_is_given_for_a_setting_is_taken_or_refused_by_name(value: Any) -> None:
    for of, spec in ALL:
        told = said(Settings.from_dict, holding(of, spec.name, value))
        assert not told or f'"{path(of, spec)}"' in told
        assert told or isinstance(value, str)


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_whatever_is_given_in_the_place_of_settings_is_refused_by_name(value: Any) -> None:
    assert said(Settings.from_dict, value)
    assert said(Settings.from_list, value)
    assert said(Settings.from_list, [value])
    for name, words in (("main_adapter", 'main_adapter"'), ("co_models", '"co_models"|co-model 1"')):
        assert re.search(words, said(Settings.from_dict, {name: value}))
    assert 'co-model 1"' in said(Settings.from_dict, {"co_models": [value]})


@pytest.mark.parametrize(
    "name", [7, None, (1, 2), "x" * 3_000_000, "x\n\ud800y", 10**5000, b"steps"], ids=lambda name: type(name).__name__
)
def test_a_name_of_any_kind_is_told_shortly_and_the_known_ones_beside_it(name: Any) -> None:
    for body in ({name: 1}, {"main_adapter": {name: 1}}, {"co_models": [{name: 1}]}):
        told = refused(body)
        assert "is not a setting" in told
    assert all(spec.name in refused({name: 1}) for spec in specs(Settings))


def test_a_refusal_costs_no_more_than_what_it_says() -> None:
    picture = "x" * 30_000_000
    for body in ({"co_models": [{"image": [picture]}]}, {"steps": picture}, {"eta": {picture: 1}}, {picture: 1}):
        tracemalloc.start()
        refused(body)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000


def test_no_more_slots_than_can_be_run() -> None:
    fits, too_many = ({"co_models": [{}] * count} for count in (MAX_SLOTS, MAX_SLOTS + 1))
    Settings.from_dict(fits)
    assert '"co_models"' in refused(too_many)
    assert validator().is_valid(fits)
    assert not validator().is_valid(too_many)


@pytest.mark.parametrize("given", [{"eta": 1.01}, {"eta": 45}, {"correction": "relative", "eta": 2}])
def test_an_eta_in_the_papers_units_needs_the_papers_rule(given: dict) -> None:
    told = refused(given)
    assert '"eta"' in told
    assert "paper" in told
    assert Settings.from_dict({**given, "correction": "paper"}).eta == given["eta"]
    assert '"eta of co-model 2"' in refused({"co_models": [{}, given if len(given) == 1 else {"eta": 2}]})


@pytest.mark.parametrize("change", [-1, 1, -len(list(flat(0)))])
def test_a_list_of_the_wrong_length_is_refused(change: int) -> None:
    values = [spec.default for _, spec in flat(2)]
    values = values[:change] if change < 0 else [*values, 1]
    with pytest.raises(SettingsError, match=f"{len(values)} entries"):
        Settings.from_list(values)


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(SettingsError, match="0 entries"):
        Settings.from_list([])


def test_a_wrong_value_in_a_list_is_named_as_in_an_object() -> None:
    values = [spec.default for _, spec in flat(2)]
    place = next(index for index, (slot, spec) in enumerate(flat(2)) if slot == 2 and spec.name == "gamma")
    values[place] = 7
    with pytest.raises(SettingsError, match=re.escape('"gamma of co-model 2"')):
        Settings.from_list(values)


@given(
    st.booleans(),
    st.integers(0, 3) | st.just(AUTO),
    st.integers(0, 3),
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from([NO_CHECKPOINT, "", "main", "a.ckpt"]),
            st.sampled_from([0.0, 0.5]),
            st.sampled_from([None, 0.0, 0.5]),
        ),
        max_size=3,
    ),
)
def test_it_runs_exactly_where_it_is_on_with_steps_and_a_slot_that_counts(
    on: bool, steps: int, start: int, slots: list
) -> None:
    co_models = tuple(
        CoModel(enabled=used, checkpoint=name, gamma=gamma, gamma_end=end) for used, name, gamma, end in slots
    )
    settings = Settings(enabled=on, steps=steps, start=start, co_models=co_models)
    counting = [
        used and name not in (NO_CHECKPOINT, "") and (gamma > 0 or end == 0.5) for used, name, gamma, end in slots
    ]
    assert settings.runs == (on and (steps == AUTO or steps > start) and any(counting))
    assert [number for number, _ in settings.active] == [n for n, counts in enumerate(counting, 1) if counts]


@pytest.mark.parametrize(("strength", "until"), [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["None", "", "ip.safetensors"])
def test_an_adapter_on_the_main_model_runs_without_steps_and_slots_where_it_can_do_something(name, strength, until):
    works = name == "ip.safetensors" and strength > 0 and until > 0
    given = {"adapter": name, "strength": strength, "until": until}
    for enabled in (True, False):
        settings = Settings.from_dict({"enabled": enabled, "steps": 0, "main_adapter": given})
        assert settings.runs == (enabled and works)
        assert not settings.mixes


def test_a_layout_may_be_a_list_and_is_kept_as_a_text() -> None:
    rows = [{"phrase": "a ж", "box": [0, 0, 0.5, 1]}]
    settings = Settings.from_dict({"main_adapter": {"layout": rows}, "co_models": [{"layout": []}]})
    assert json.loads(settings.main_adapter.layout) == rows
    assert settings.co_models[0].layout == ""


def test_a_bad_row_of_a_layout_is_named() -> None:
    rows = [{"phrase": "a", "box": [0, 0, 1, 1]}, {"phrase": "b", "box": [0.5, 0, 0.5, 1]}]
    told = refused({"co_models": [{}, {"layout": rows}]})
    assert '"layout of co-model 2" has a row 2' in told


@BOTH
def test_every_setting_explains_itself(of: type, spec: Spec) -> None:
    assert spec.label
    assert len(spec.help) > 10
    assert spec.help.endswith(".")
    assert type(spec.default) in kinds(spec)
    assert spec.check(spec.default, spec.name) == spec.default
    assert getattr(of(), spec.attribute) == spec.default


@EACH_NUMBER
def test_every_number_has_a_range_with_a_step_that_fits_into_it(of: type, spec: Spec) -> None:
    assert 0 < spec.step <= spec.maximum - spec.minimum
    if isinstance(spec, WordSpec):  # a text box: the word stands for no number of the range
        assert spec.default == spec.meaning
        assert not isinstance(spec.meaning, (int, float))
        return
    assert spec.minimum <= spec.default <= spec.maximum
    steps = (spec.default - spec.minimum) / spec.step
    assert steps == pytest.approx(round(steps)), "the slider cannot show the default"


def test_every_number_is_bounded() -> None:
    assert [spec.name for _, spec in ALL if spec.type in (int, float) and spec.minimum is None] == []


def test_infotext_keys_are_such_as_the_webui_reads_back_and_no_two_alike() -> None:
    keys = [infotext_label(slot, spec) for slot, spec in flat(MAX_SLOTS)]
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in keys)
    assert len({key.lower() for key in keys}) == len(keys)
    assert all(key == "AMDM" or key.startswith("AMDM ") for key in keys)
    assert {"AMDM", "AMDM steps", "AMDM eta", "AMDM 2 gamma", "AMDM 1 eta"} <= set(keys)


def test_what_says_that_it_ran_is_never_left_out_of_the_infotext() -> None:
    always = {(slot, spec.name) for slot, spec in flat(1) if not spec.terse}
    assert {(0, "steps"), (0, "eta"), (1, "checkpoint"), (1, "gamma")} <= always


def test_the_panels_order_is_the_main_settings_and_then_each_slot() -> None:
    order = list(flat(3))
    main = [*specs(Settings), *specs(AdapterSettings)]
    assert order[: len(main)] == [(0, spec) for spec in main]
    assert order[len(main) :] == [(slot, spec) for slot in (1, 2, 3) for spec in specs(CoModel)]
    assert order[0][1].name == "enabled", "the WebUI's accordion puts its own checkbox first"


@pytest.mark.parametrize(
    ("correction", "eta", "fits"), [("relative", 1, True), ("relative", 45, False), ("paper", 45, True)]
)
@pytest.mark.parametrize("where", ["main", "slot"])
def test_schema_and_settings_agree_on_the_etas_of_a_correction(correction, eta, fits, where):
    jsonschema = pytest.importorskip("jsonschema")
    given = {"correction": correction, **({"eta": eta} if where == "main" else {"co_models": [{"eta": eta}]})}
    validator = jsonschema.Draft202012Validator(Settings.schema())
    assert validator.is_valid(given) == fits
    if fits:
        Settings.from_dict(given)
    else:
        with pytest.raises(SettingsError, match="eta"):
            Settings.from_dict(given)


def test_what_a_user_reads_calls_a_co_model_by_one_name() -> None:
    texts = [spec.help for of in (Settings, AdapterSettings, CoModel) for spec in specs(of)]
    texts += [full_name(slot, spec) for slot, spec in flat(3)]
    assert not [text for text in texts if re.search(r"\bslots?\b|\[\d\]", text)]
    assert full_name(3, named("gamma", specs(CoModel))) == "gamma of co-model 3"
