"""The axes in the WebUI's X/Y/Z plot, and what a cell of the plot makes of the settings."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost

from lib_amdm.settings import AUTO, MAIN_CHECKPOINT, AdapterSettings, CoModel, Settings, SettingsError
from lib_amdm.webui import xyz

USED = CoModel(checkpoint=TITLES[0])


def axes(host: FakeHost) -> dict[str, Any]:
    xyz.register(host)
    host.fire("before_ui")
    return {option.label: option for option in host.xyz.axis_options}


@pytest.fixture
def host() -> FakeHost:
    return FakeHost(amdm_slots=2)


def cell(host: FakeHost, **values: Any) -> Any:
    """The object of one cell, after each axis (by label, without its prefix) was given its text as the plot does it."""
    options, p = axes(host), SimpleNamespace()
    for caption, text in values.items():
        option = options[f"[AMDM] {caption}"]
        given = option.type(text)
        option.confirm(p, [given])
        option.apply(p, given, [given])
    return p


def settings_of(host: FakeHost, settings: Settings, **values: Any) -> Settings:
    return xyz.overlay(settings, cell(host, **values).amdm_xyz)


def test_the_axes(host: FakeHost) -> None:
    captions = [label.removeprefix("[AMDM] ") for label in axes(host) if label.startswith("[AMDM] ")]

    def slots(caption: str) -> list[str]:
        return [f"{caption} of co-model {number}" for number in (1, 2)]

    assert captions == [
        *("enabled", "steps (K)", "evaluations (E)", "gamma", *slots("gamma"), "gamma end", "eta", *slots("eta")),
        *("correction", "feather", *slots("checkpoint"), *slots("CFG"), "noise", "size", *slots("device")),
        *("adapter strength", *slots("adapter strength"), "adapter until", *slots("adapter")),
        *("main adapter", "main adapter strength", "main adapter until"),
    ]


def test_a_reloaded_page_adds_only_what_is_missing(host: FakeHost) -> None:
    before = list(axes(host))
    host.options["amdm_slots"] = 3
    host.fire("before_ui")
    labels = [option.label for option in host.xyz.axis_options]
    assert labels[: len(before)] == before
    assert len(set(labels)) == len(labels)
    assert "[AMDM] gamma of co-model 3" in labels


def test_axes_are_there_at_once_and_a_webui_may_lack_the_plot() -> None:
    """An API may have read them before the page is built."""
    host = FakeHost()
    host.on = lambda moment, callback: None  # type: ignore[method-assign]
    xyz.register(host)
    assert any(option.label == "[AMDM] gamma" for option in host.xyz_module().axis_options)
    host = FakeHost()
    host.xyz = None  # type: ignore[assignment]
    xyz.register(host)
    host.fire("before_ui")


def test_numbers_take_ranges_and_choices_are_listed(host: FakeHost) -> None:
    options = axes(host)
    assert options["[AMDM] steps (K)"].type is int
    assert options["[AMDM] evaluations (E)"].type is int
    assert options["[AMDM] gamma"].type is options["[AMDM] gamma end"].type is options["[AMDM] feather"].type is float
    assert options["[AMDM] enabled"].choices() == ["True", "False"]
    assert options["[AMDM] noise"].choices() == ["shared", "independent", "estimate", "pixels"]
    assert {"relative", "paper"} <= set(options["[AMDM] correction"].choices())
    checkpoint = options["[AMDM] checkpoint of co-model 1"]
    assert checkpoint.choices() == ["None", "main", *TITLES]
    assert checkpoint.cost == 1.0
    host.titles.append("delta.safetensors")
    assert checkpoint.choices()[-1] == "delta.safetensors"


@pytest.mark.parametrize(("caption", "name"), [("steps (K)", "steps"), ("evaluations (E)", "evaluations")])
def test_auto_stands_beside_numbers_and_ranges(host: FakeHost, caption: str, name: str) -> None:
    option = axes(host)[f"[AMDM] {caption}"]
    texts = option.prepare("3, Auto,1-5 (+2) , 4-8 [2]")
    # the plot reads ranges before the numbers
    assert [text for text in texts if "-" in text[1:]] == ["1-5 (+2)", "4-8 [2]"]
    values = [option.type(text) for text in texts if "-" not in text[1:]] + [0]
    option.confirm(None, [-1, *values])
    shown, made = [], []
    for value in values:
        p = SimpleNamespace()
        option.apply(p, value, values)
        shown.append(option.format_value(p, option, value))
        made.append(getattr(xyz.overlay(Settings(co_models=(USED,)), p.amdm_xyz), name))
    assert made == [3, AUTO, 0]
    assert shown == [f"[AMDM] {caption}: {word}" for word in (3, "auto", 0)]


def test_the_size_of_a_co_model_s_pictures_is_a_share_a_side_or_auto(host: FakeHost) -> None:
    option = axes(host)["[AMDM] size"]
    values = [option.type(text) for text in option.prepare("Auto, 0, 0.5, 768")]
    option.confirm(None, values)
    shown, made = [], []
    for value in values:
        p = SimpleNamespace()
        option.apply(p, value, values)
        shown.append(option.format_value(p, option, value))
        made.append(xyz.overlay(Settings(co_models=(USED,)), p.amdm_xyz).co_models[0].size)
    assert made == [AUTO, 0, 0.5, 768]
    assert shown == [f"[AMDM] size: {text}" for text in ("auto", "0", "0.5", "768")]


def test_a_constant_gamma_stands_beside_gammas_that_change(host: FakeHost) -> None:
    """The plot drops an empty value, so it has a word."""
    option = axes(host)["[AMDM] gamma end"]
    values = [option.type(text) for text in option.prepare("Empty, 0.9, 0")]
    option.confirm(None, values)
    made, shown = [], []
    for value in values:
        p = SimpleNamespace()
        option.apply(p, value, values)
        shown.append(option.format_value(p, option, value))
        made.append(xyz.overlay(Settings(co_models=(replace(USED, gamma_end=0.5),)), p.amdm_xyz).co_models[0].gamma_end)
    assert made == [None, 0.9, 0.0]
    assert shown == [f"[AMDM] gamma end: {text}" for text in ("empty", "0.9", "0")]


@pytest.mark.parametrize(
    ("caption", "text", "said"),
    [
        ("steps (K)", "1, many", '"auto"'),
        ("evaluations (E)", "1x", '"auto"'),
        ("evaluations (E)", "2.5", "a whole number"),
        ("steps (K)", "1;2", '"auto"'),
        ("gamma", "0, half", "a number"),
        ("gamma end", "none", "a number"),
        ("gamma end", "nan", "from 0 to 1"),
        ("eta of co-model 1", "auto", "a number"),
    ],
)
def test_a_word_on_an_axis_of_numbers_is_named(host: FakeHost, caption: str, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        axes(host)[f"[AMDM] {caption}"].prepare(text)
    assert f'"[AMDM] {caption}" must be' in str(raised.value) and said in str(raised.value)


def test_numbers_of_all_spellings_are_left_to_the_plot_and_written_as_a_user_would(host: FakeHost) -> None:
    option, p = axes(host)["[AMDM] gamma"], SimpleNamespace()
    assert option.prepare("0, .5,1e-1, 0-1 (+0.25), ") == ["0", ".5", "1e-1", "0-1 (+0.25)"]
    option.apply(p, 0.1 + 0.2, [])
    assert xyz.overlay(Settings(co_models=(USED,)), p.amdm_xyz).co_models[0].gamma == 0.3
    assert option.format_value(p, option, 0.1 + 0.2) == "[AMDM] gamma: 0.3"


def test_cells_do_not_share_what_they_carry(host: FakeHost) -> None:
    gamma, steps = axes(host)["[AMDM] gamma"], axes(host)["[AMDM] steps (K)"]
    p = SimpleNamespace()
    first, second = copy(p), copy(p)
    gamma.apply(first, 0.25, [])
    nested = copy(first)
    steps.apply(nested, 2, [])
    gamma.apply(second, 0.5, [])
    assert not hasattr(p, "amdm_xyz")
    assert [len(held.amdm_xyz) for held in (first, nested, second)] == [1, 2, 1]


@pytest.mark.parametrize(("text", "enabled"), [("True", True), ("False", False), (" false ", False)])
def test_enabled_is_read_as_it_is_written(host: FakeHost, text: str, enabled: bool) -> None:
    assert settings_of(host, Settings(co_models=(USED,)), enabled=text).enabled is enabled


def test_captions_of_checkpoints_have_no_folder(host: FakeHost) -> None:
    option = axes(host)["[AMDM] checkpoint of co-model 2"]
    assert option.format_value(None, option, TITLES[1]) == "co-model 2: beta.safetensors [2222222222]"
    assert option.format_value(None, option, "styles\\beta.ckpt") == "co-model 2: beta.ckpt"


def test_a_checkpoint_is_given_its_title(host: FakeHost) -> None:
    settings = settings_of(host, Settings(), **{"checkpoint of co-model 1": "styles/beta.safetensors"})
    assert settings.co_models[0].checkpoint == TITLES[1]
    for text, name in (("none", "None"), ("None", "None"), ("MAIN", "main")):
        assert settings_of(host, Settings(), **{"checkpoint of co-model 1": text}).co_models[0].checkpoint == name


@pytest.mark.parametrize(
    ("caption", "known"),
    [
        ("checkpoint of co-model 1", ["None", "main", TITLES[2], "styles/beta.safetensors"]),
        ("adapter of co-model 1", ["None", *ADAPTERS]),
        ("main adapter", ["None", *ADAPTERS]),
    ],
)
def test_unknown_files_are_named_before_anything_runs(host: FakeHost, caption: str, known: list[str]) -> None:
    option = axes(host)[f"[AMDM] {caption}"]
    option.confirm(None, known)
    assert option.choices() == (["None", "main", *TITLES] if "checkpoint" in caption else known)
    with pytest.raises(SettingsError, match=r'"lost".*"gone".*; refresh') as raised:
        option.confirm(None, ["lost", known[-1], "gone"])
    assert known[-1] not in str(raised.value)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        *(("steps (K)", "151"), ("steps (K)", "-2"), ("evaluations (E)", "151"), ("gamma", "1.5"), ("gamma end", "-1")),
        *(("gamma end", "1.5"), ("gamma of co-model 1", "-0.1"), ("eta", "1001"), ("CFG of co-model 2", "31")),
        *(("correction", "none"), ("feather", "0.6"), ("noise", "loud"), ("enabled", "maybe")),
        ("device of co-model 1", "gpu"),
    ],
)
def test_values_out_of_range_are_refused_before_anything_runs(host: FakeHost, caption: str, text: str) -> None:
    option = axes(host)[f"[AMDM] {caption}"]
    with pytest.raises(SettingsError) as raised:
        option.confirm(None, [option.type(text)])
    assert f"[AMDM] {caption}" in str(raised.value)


def slot(**changed: Any) -> dict[str, Any]:
    return {"co_models": (replace(USED, **changed),)}


def test_no_axis_leaves_the_settings_alone() -> None:
    settings = Settings(co_models=(USED,))
    assert xyz.overlay(settings, {}) is settings


@pytest.mark.parametrize(
    ("caption", "text", "changed"),
    [
        ("steps (K)", "0", {"steps": 0}),
        ("steps (K)", "-1", {"steps": AUTO}),
        ("evaluations (E)", "0", {"evaluations": 0}),
        ("evaluations (E)", "-1", {"evaluations": AUTO}),
        ("correction", "paper", {"correction": "paper"}),
        ("eta", "0.2", {"eta": 0.2}),
        *(("gamma end", "0", slot(gamma_end=0.0)), ("gamma", "0.2", slot(gamma=0.2))),
        *(("noise", "independent", slot(noise="independent")), ("gamma of co-model 1", "1", slot(gamma=1.0))),
        ("device of co-model 1", "cuda:1", slot(device="cuda:1")),
        *(("eta of co-model 1", "0", slot(eta=0.0)), ("CFG of co-model 1", "4.5", slot(cfg_scale=4.5))),
    ],
)
def test_an_axis_switches_amdm_on(host: FakeHost, caption: str, text: str, changed: dict[str, Any]) -> None:
    expected = Settings(**{"enabled": True, "co_models": (USED,), **changed})
    assert settings_of(host, Settings(co_models=(USED,)), **{caption: text}) == expected


@pytest.mark.parametrize("backwards", [False, True])
def test_the_enabled_axis_has_the_last_word_and_one_slot_goes_before_all(host: FakeHost, backwards: bool) -> None:
    values = {"gamma of co-model 2": "0.9", "gamma": "0.2", "enabled": "False"}
    order = dict(reversed(values.items())) if backwards else values
    settings = settings_of(host, Settings(enabled=True, co_models=(USED, USED)), **order)
    assert [slot.gamma for slot in settings.co_models] == [0.2, 0.9]
    assert not settings.enabled


def test_a_slot_beyond_the_given_ones_is_made(host: FakeHost) -> None:
    values = {"checkpoint of co-model 2": MAIN_CHECKPOINT, "gamma": "0.2"}
    settings = settings_of(host, Settings(), **values)
    assert settings.co_models == (CoModel(gamma=0.2), CoModel(checkpoint=MAIN_CHECKPOINT, gamma=0.2))


def test_an_axis_of_a_slot_switches_the_slot_on(host: FakeHost) -> None:
    off = CoModel(checkpoint=TITLES[0], enabled=False)
    assert settings_of(host, Settings(co_models=(off, USED)), **{"gamma of co-model 1": "0.2"}).co_models[0].used
    assert not settings_of(host, Settings(co_models=(off, USED)), gamma="0.2").co_models[0].used


@pytest.mark.parametrize("region", [{"region": "0 0 0.5 1"}, {"mask": "AAAA"}])
def test_feather_is_an_axis_of_slots_with_a_region(host: FakeHost, region: dict[str, Any]) -> None:
    settings = settings_of(host, Settings(co_models=(CoModel(checkpoint=TITLES[0], **region), USED)), feather="0.25")
    assert [slot.feather for slot in settings.co_models] == [0.25, 0.25]
    # in a cell without a checkpoint the picture is the untouched one
    none = {"checkpoint of co-model 1": "None", "feather": "0.25", "gamma of co-model 1": "0.5", "steps (K)": "2"}
    assert not settings_of(host, Settings(co_models=(CoModel(**region),)), **none).runs


@pytest.mark.parametrize("co_models", [(USED,), (USED, CoModel(region="0 0 0.5 1"))])
def test_feather_varies_nothing_where_every_model_speaks_everywhere(host: FakeHost, co_models: tuple) -> None:
    with pytest.raises(SettingsError, match=r'"\[AMDM\] feather", but no co-model has a region'):
        settings_of(host, Settings(co_models=co_models), feather="0.25")


@pytest.mark.parametrize("caption", ["gamma", "steps (K)", "gamma of co-model 2", "gamma end", "evaluations (E)"])
def test_an_axis_that_varies_nothing_is_refused(host: FakeHost, caption: str) -> None:
    settings = Settings(co_models=(USED, CoModel()) if "2" in caption else ())
    with pytest.raises(SettingsError, match="has no checkpoint") as raised:
        settings_of(host, settings, **{caption: "0"})
    assert f"[AMDM] {caption}" in str(raised.value)


def test_settings_that_do_not_fit_each_other_are_refused(host: FakeHost) -> None:
    with pytest.raises(SettingsError, match="relative correction"):
        settings_of(host, Settings(co_models=(USED,)), eta="45")
    paper = Settings(co_models=(USED,), correction="paper")
    assert settings_of(host, paper, eta="45").eta == 45.0


ADAPTED = CoModel(checkpoint=MAIN_CHECKPOINT, adapter=ADAPTERS[0])


def test_adapter_axes_vary_the_slots_and_the_main_models(host: FakeHost) -> None:
    start = Settings(co_models=(ADAPTED, USED), main_adapter=AdapterSettings(adapter=ADAPTERS[1]))
    values = {"adapter strength": "0.5", "main adapter strength": "0.25", "adapter until": "0.75"}
    settings = settings_of(host, start, **values)
    assert [(slot.strength, slot.until) for slot in settings.co_models] == [(0.5, 0.75)] * 2
    assert settings.main_adapter == AdapterSettings(adapter=ADAPTERS[1], strength=0.25)
    chosen = settings_of(host, start, **{"adapter of co-model 2": ADAPTERS[1], "main adapter": "none"})
    assert [slot.adapter for slot in chosen.co_models] == [ADAPTERS[0], ADAPTERS[1]]
    assert chosen.main_adapter.adapter == "None"
    alone = settings_of(host, Settings(), **{"main adapter": ADAPTERS[1], "main adapter until": "0.5"})
    assert alone.runs and not alone.mixes, "an axis of the main adapter needs no slot"
    assert alone.main_adapter == AdapterSettings(adapter=ADAPTERS[1], until=0.5)


@pytest.mark.parametrize(
    ("caption", "whose"),
    [
        ("adapter strength", "co-model 1"),
        ("adapter strength of co-model 2", "co-model 2"),
        ("adapter until", "co-model 1"),
        ("main adapter strength", "the main model"),
        ("main adapter until", "the main model"),
    ],
)
def test_an_axis_without_an_adapter_is_refused(host: FakeHost, caption: str, whose: str) -> None:
    with pytest.raises(SettingsError, match=f"{whose} has no adapter"):
        settings_of(host, Settings(co_models=(USED, USED)), **{caption: "0.5"})
