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
from fuzz import deep, loop, taken, tried
from hypothesis import given
from hypothesis import strategies as st
from strategies import bodies

from lib_amdm.layout import boxes_of
from lib_amdm.settings import (
    AUTO,
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
NUMBERS = [(of, spec) for of, spec in ALL if spec.type in (int, float)]
BOTH = pytest.mark.parametrize(("of", "spec"), ALL, ids=lambda value: getattr(value, "name", None))
EACH_NUMBER = pytest.mark.parametrize(("of", "spec"), NUMBERS, ids=lambda value: getattr(value, "name", None))


WORDS = [(of, spec) for of, spec in ALL if isinstance(spec, WordSpec)]
EACH_WORD = pytest.mark.parametrize(("of", "spec"), WORDS, ids=lambda value: getattr(value, "name", None))


def meant(spec: Spec, given: Any) -> Any:
    """The value that a setting has given `given`: a word, or a number in a text, is read."""
    if not isinstance(spec, WordSpec) or not isinstance(given, str):
        return given
    return spec.meaning if given.strip().lower() == spec.word else float(given)


def kinds(spec: Spec) -> tuple[type, ...]:
    return (spec.type, type(spec.meaning)) if isinstance(spec, WordSpec) else (spec.type,)


def holding(of: type, name: str, value: Any) -> dict[str, Any]:
    """Settings with one value set, in the main settings, in the main adapter's, or in the second of two slots."""
    nested: dict[type, dict[str, Any]] = {
        AdapterSettings: {"main_adapter": {name: value}},
        CoModel: {"co_models": [{}, {name: value}]},
    }
    return nested.get(of, {name: value})


def holder(of: type, settings: Settings) -> Any:
    return {AdapterSettings: settings.main_adapter, Settings: settings}.get(of) or settings.co_models[1]


def path(of: type, spec: Spec) -> str:
    return spec.name + {Settings: "", AdapterSettings: " of main_adapter", CoModel: " of co-model 2"}[of]


def refused(given: Any) -> str:
    with pytest.raises(SettingsError):
        Settings.from_dict(given)
    text = said(Settings.from_dict, given)
    assert not re.search(r"[.!?]\s", text), f"more than one sentence: {text}"
    return text


@given(bodies())
def test_a_dict_of_the_settings_gives_the_same_settings(given: dict) -> None:
    before = json.dumps(given)
    settings = Settings.from_dict(given)
    assert json.dumps(given) == before, "nothing given is changed"
    assert Settings.from_dict(settings.to_dict()) == settings
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert validator().is_valid(given) and validator().is_valid(settings.to_dict())


@given(bodies())
def test_every_given_value_is_kept_and_every_other_is_the_default(given: dict) -> None:
    values = Settings.from_dict(given).to_dict()
    for spec in specs(Settings):
        assert values[spec.name] == meant(spec, given.get(spec.name, spec.default))
        assert type(values[spec.name]) in kinds(spec)
    for spec in specs(AdapterSettings):
        assert values["main_adapter"][spec.name] == given.get("main_adapter", {}).get(spec.name, spec.default)
    assert len(values["co_models"]) == len(given["co_models"])
    for slot, given_slot in zip(values["co_models"], given["co_models"]):
        for spec in specs(CoModel):
            assert slot[spec.name] == meant(spec, given_slot.get(spec.name, spec.default))
            assert type(slot[spec.name]) in kinds(spec)


@given(bodies())
def test_the_plain_list_in_the_panels_order_gives_the_same_settings(given: dict) -> None:
    settings = Settings.from_dict(given)
    values = [settings.value(slot, spec) for slot, spec in flat(len(settings.co_models))]
    assert Settings.from_list(values) == settings
    shown = [spec.shown(value) for value, (_, spec) in zip(values, flat(len(settings.co_models)))]
    assert Settings.from_list(shown) == settings, "as the page's controls have them"


@BOTH
def test_null_is_the_default(of: type, spec: Spec) -> None:
    """The value of a page's number field once a user has cleared it, also that of a slot that is not used."""
    given = holding(of, spec.name, None)
    assert Settings.from_dict(given) == Settings.from_dict(holding(of, spec.name, spec.default))
    assert validator().is_valid(given)
    values = [None if one == spec else one.default for _, one in flat(2)]
    assert Settings.from_list(values) == Settings(co_models=(CoModel(),) * 2)


@pytest.mark.parametrize("body", [{}, {"main_adapter": None, "co_models": None}, {"main_adapter": None}])
def test_nothing_given_is_the_default(body: dict) -> None:
    assert Settings.from_dict(body) == Settings() and validator().is_valid(body)
    assert Settings.from_list([None] * len(list(flat(3)))) == Settings(co_models=(CoModel(),) * 3)
    assert Settings.from_list([spec.default for _, spec in flat(0)]) == Settings()


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


def outside(spec: Any) -> list[Any]:
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
        wrong += [spec.minimum - 2, spec.maximum + 1, -(10**400), 10**400, 1e308, math.nan, math.inf, -math.inf]
        wrong += [spec.minimum - 1] if not word or spec.meaning != spec.minimum - 1 else []
    return wrong


@BOTH
def test_the_schema_and_from_dict_refuse_the_same_and_the_sentence_names_the_setting(of: type, spec: Spec) -> None:
    for value in outside(spec):
        assert f'"{path(of, spec)}"' in refused(holding(of, spec.name, value))
        # JSON has no such numbers
        infinite = isinstance(value, float) and not math.isfinite(value)
        assert infinite or not validator().is_valid(holding(of, spec.name, value)), value


@EACH_NUMBER
def test_the_ends_of_a_range_belong_to_it(of: type, spec: Any) -> None:
    for value in (spec.minimum, spec.maximum):
        given = {**holding(of, spec.name, value), "correction": "paper"}
        Settings.from_dict(given)
        assert validator().is_valid(given)


@BOTH
def test_a_whole_number_may_be_written_either_way(of: type, spec: Any) -> None:
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


@EACH_WORD
def test_a_word_may_be_written_in_any_case_and_a_number_as_a_text_within_its_range(of: type, spec: Any) -> None:
    for text in (spec.word, spec.word.upper(), f" {spec.word.title()}\n"):
        given = holding(of, spec.name, text)
        assert kept(of, spec, text) == spec.meaning and validator().is_valid(given)
        assert Settings.from_dict(json.loads(json.dumps(Settings.from_dict(given).to_dict()))) == Settings.from_dict(
            given
        )
    for text, value in (("1", 1), (" 1.0 ", 1), ("0", 0), ("1e0", 1), (repr(spec.maximum), spec.maximum)):
        assert kept(of, spec, text) == value
        assert type(kept(of, spec, text)) is spec.type
        assert validator().is_valid(holding(of, spec.name, text))
    for text in (f"{spec.maximum + 1}", "-2", "9" * 400):
        assert f'"{path(of, spec)}"' in refused(holding(of, spec.name, text))


@pytest.mark.parametrize("name", ["steps", "evaluations"])
def test_auto_is_a_word_and_no_number_stands_for_it(name: str) -> None:
    assert Settings().to_dict()[name] == "auto" == Settings.schema()["properties"][name]["default"] == AUTO
    for value in (-1, -2, -1.0, "-1", "some"):
        text = refused({name: value})
        assert f'"{name}" must be ' in text and ('from 0 to 150 or "auto", but it is' in text or value == "some")
        assert 'a whole number or "auto"' in text or value != "some"
        assert isinstance(value, str) or not validator().is_valid({name: value})
    assert "a number or empty" in refused({"co_models": [{"gamma_end": "none"}]})


@EACH_WORD
def test_what_is_shown_of_a_word_or_a_number_is_read_again(of: type, spec: WordSpec) -> None:
    assert spec.shown(spec.meaning) == spec.word
    for value in (spec.minimum, spec.maximum, 0.1 + 0.2 if spec.type is float else 14):
        assert kept(of, spec, spec.shown(value)) == value
    assert spec.shown(spec.type(1)) == "1", "no point where there is nothing behind it"


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
    ("region", "words"),
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
def test_a_bad_box_of_a_region_is_named(region: Any, words: str) -> None:
    assert f'"region of co-model 2" {"" if "JSON" in words else "has a "}{words}' in refused(
        {"co_models": [{}, {"region": region}]}
    )


@pytest.mark.parametrize("name", ["Steps", "step", "gamma", "which_pass", "", "__class__"])
def test_an_unknown_setting_is_refused_by_name_beside_the_known_ones(name: str) -> None:
    text = refused({name: 1})
    assert f'"{name}"' in text
    assert all(known in text for known in (*(spec.name for spec in specs(Settings)), "co_models", "main_adapter"))
    of_slot = {"co_models": [{}, {f"{name}_": 1}]}
    text = refused(of_slot)
    assert f'"{name}_ of co-model 2"' in text and all(spec.name in text for spec in specs(CoModel))
    assert not any(validator().is_valid(given) for given in ({name: 1}, of_slot))


NO_OBJECTS: tuple[Any, ...] = (None, [], "AMDM", 3, True)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        *((given, "") for given in NO_OBJECTS),
        *(({"co_models": slots}, '"co_models"') for slots in ("main", {"checkpoint": "main"}, 3)),
        *(({"co_models": [{}, slot]}, '"co-model 2"') for slot in (None, "main", ["main"], 3)),
    ],
)
def test_what_holds_settings_must_be_of_its_kind(given: Any, path: str) -> None:
    assert path in refused(given)
    assert not validator().is_valid(given)


HOSTILE = [
    *(
        10**400,
        -(10**5000),
        "9" * 3_000_000,
        " " * 1_000_000 + "1" + " " * 1_000_000,
        "x" * 3_000_000,
        b"1" * 3_000_000,
    ),
    *("a. b\n\u2028\ud800", ["x" * 3_000_000], loop(), deep(100_000), {1: 2, None: 3}, {"\ud800" * 600: 1}, {1, 2}),
    *(object(), 1j, range(10**9), np.array([-1.0, 2.0]), np.float32("nan")),
]


def said(read: Any, given: Any) -> str:
    """The words of the refusal; empty if the settings are taken, and can be read again."""
    settings, words = tried(read, given)
    if settings is not None:
        taken(settings)
    return words


@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: type(value).__name__)
def test_whatever_is_given_for_a_setting_is_taken_or_refused_by_name(value: Any) -> None:
    for of, spec in ALL:
        words = said(Settings.from_dict, holding(of, spec.name, value))
        assert not words or f'"{path(of, spec)}"' in words
        assert words or isinstance(value, str)


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
def test_a_name_of_any_kind_is_shown_shortly_and_the_known_ones_beside_it(name: Any) -> None:
    for body in ({name: 1}, {"main_adapter": {name: 1}}, {"co_models": [{name: 1}]}):
        words = refused(body)
        assert "is not a setting" in words
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
    fits: dict[str, Any] = {"co_models": [{}] * MAX_SLOTS}
    too_many: dict[str, Any] = {"co_models": [{}] * (MAX_SLOTS + 1)}
    Settings.from_dict(fits)
    assert '"co_models"' in refused(too_many)
    assert validator().is_valid(fits)
    assert not validator().is_valid(too_many)


@pytest.mark.parametrize("given", [{"eta": 1.01}, {"eta": 45}, {"correction": "relative", "eta": 2}])
def test_an_eta_in_the_papers_units_needs_the_papers_rule(given: dict) -> None:
    of_slot = {**given, "eta": 1, "co_models": [{}, {"eta": given["eta"]}]}
    for body, name in ((given, "eta"), (of_slot, "eta of co-model 2")):
        text = refused(body)
        assert f'"{name}"' in text and "paper" in text and not validator().is_valid(body)
        assert validator().is_valid({**body, "correction": "paper"})
        Settings.from_dict({**body, "correction": "paper"})
    assert validator().is_valid({**given, "eta": 1}) and Settings.from_dict({**given, "eta": 1})


@pytest.mark.parametrize(
    "length", [0, len(list(flat(2))) - 1, len(list(flat(2))) + 1, len(list(flat(2))) - len(list(flat(0)))]
)
def test_a_list_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(SettingsError, match=f"{length} entries"):
        Settings.from_list([*(spec.default for _, spec in flat(2)), 1][:length])


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
def test_an_adapter_on_the_main_model_runs_without_steps_and_slots_where_it_can_do_something(
    name: str, strength: Any, until: Any
) -> None:
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
    text = refused({"co_models": [{}, {"layout": [*rows, {"phrase": "b", "box": [0.5, 0, 0.5, 1]}]}]})
    assert '"layout of co-model 2" has a row 2' in text


@BOTH
def test_every_setting_explains_itself(of: type, spec: Spec) -> None:
    assert spec.label and len(spec.help) > 10 and spec.help.endswith(".")
    # a co-model has one name
    assert not re.search(r"\bslots?\b|\[\d\]", spec.help)
    assert type(spec.default) in kinds(spec)
    assert spec.check(spec.default, spec.name) == spec.default
    assert getattr(of(), spec.attribute) == spec.default


@EACH_NUMBER
def test_every_number_has_a_range_with_a_step_that_fits_into_it(of: type, spec: Any) -> None:
    assert spec.minimum is not None, "it is not bounded"
    assert 0 < spec.step <= spec.maximum - spec.minimum
    if isinstance(spec, WordSpec):  # a text box: the word stands for no number of the range
        assert spec.default == spec.meaning
        assert not isinstance(spec.meaning, (int, float))
        return
    assert spec.minimum <= spec.default <= spec.maximum
    steps = (spec.default - spec.minimum) / spec.step
    assert steps == pytest.approx(round(steps)), "the slider cannot show the default"


def test_infotext_keys_are_such_as_the_webui_reads_back_and_no_two_alike() -> None:
    keys = [infotext_label(slot, spec) for slot, spec in flat(MAX_SLOTS)]
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in keys)
    assert len({key.lower() for key in keys}) == len(keys)
    assert all(key == "AMDM" or key.startswith("AMDM ") for key in keys)
    # what says that it ran is never left out
    always = {infotext_label(slot, spec) for slot, spec in flat(2) if not spec.terse}
    assert {"AMDM steps", "AMDM eta", "AMDM 1 checkpoint", "AMDM 2 gamma"} <= always


def test_the_panels_order_is_the_main_settings_and_then_each_slot() -> None:
    order = list(flat(3))
    main = [*specs(Settings), *specs(AdapterSettings)]
    assert order[: len(main)] == [(0, spec) for spec in main]
    assert order[len(main) :] == [(slot, spec) for slot in (1, 2, 3) for spec in specs(CoModel)]
    assert order[0][1].name == "enabled", "the WebUI's accordion puts its own checkbox first"


def test_a_co_models_settings_are_named_after_it() -> None:
    assert not [
        name for name in (full_name(slot, spec) for slot, spec in flat(3)) if re.search(r"\bslots?\b|\[\d\]", name)
    ]
    assert full_name(3, named("gamma", specs(CoModel))) == "gamma of co-model 3"
