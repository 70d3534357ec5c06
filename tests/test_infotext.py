"""A picture's infotext of AMDM, and that pasting it back gives the same settings."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from dataclasses import replace
from typing import Any

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image
from strategies import bodies

from lib_amdm.files.pictures import as_text, fingerprint
from lib_amdm.hosts.protocol import Ran
from lib_amdm.layout import EXAMPLE
from lib_amdm.settings import MAIN_CHECKPOINT, AdapterSettings, CoModel, PictureSpec, Settings, flat, infotext_label
from lib_amdm.webui import adapter_inputs, infotext

SLOTS = 4
PAIR = re.compile(r'\s*(?P<key>\w[\w /-]+):\s*(?P<value>"(?:[^"\\]|\\.)+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")


def picture_text(entries: dict[str, str], prompt: str = "a cat", negative: str = "") -> str:
    """The infotext of a picture: prompt, negative prompt, and one line of keys and values."""
    before = {"Steps": 20, "Sampler": "Euler", "CFG scale": 7, "Seed": 1, "Size": "512x512"}
    line = {**before, **entries, "Version": "v1.10"}
    pairs = [key if key == value else f"{key}: {quoted(value)}" for key, value in line.items()]
    lines = [prompt, *([f"Negative prompt: {negative}"] if negative else []), ", ".join(pairs)]
    return "\n".join(lines).strip()


def quoted(value: Any) -> Any:
    special = any(mark in str(value) for mark in ",:\n")
    return json.dumps(value, ensure_ascii=False) if special else value


def read(text: str) -> dict[str, str]:
    """The keys and values of an infotext's last line."""
    found: dict[str, str] = {}
    for match in PAIR.finditer(text.strip().split("\n")[-1]):
        key, value = match["key"], match["value"]
        if not value:
            continue
        if value[0] == value[-1] == '"':
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        size = SIZE.match(value)
        found |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: value}
    return found


def cast(given: Any, default: Any, page: bool) -> Any:
    """The value that a control gets: pasting on the page knows "False", a request with an infotext does not."""
    if page and isinstance(default, bool) and given == "False":
        return False
    if page and type(default) is int:
        return float(given)
    return type(default)(given)


def pasted(params: dict[str, Any], slots: int, page: bool = True) -> Settings:
    """The settings of a panel after its controls were set; what is absent is left at its default."""
    values = []
    for slot, spec in flat(slots):
        label, default = infotext_label(slot, spec), spec.shown(spec.default)
        if isinstance(spec, PictureSpec):  # no control is set by its entry
            values.append(spec.default)
            continue
        read_by_key = infotext.SwitchKey(label)(params) if spec.type is bool else None
        shown = cast(params[label], default, page) if label in params else default
        values.append(shown if read_by_key is None else read_by_key)
    return Settings.from_list(values)


def expanded(params: dict[str, Any], slots: int, host: FakeHost | None = None) -> dict[str, Any]:
    infotext.expand(params, slots, host or FakeHost())
    return params


def round_trip(settings: Settings, titles: dict[int, str], slots: int = SLOTS, **texts: str) -> Settings:
    params = expanded(read(picture_text(infotext.written(settings, titles), **texts)), slots)
    assert all((infotext_label(slot, spec) in params) == spec.shapes_picture for slot, spec in flat(slots))
    return pasted(params, slots)


def as_it_was(settings: Settings, titles: dict[int, str], slots: int = SLOTS) -> Settings:
    """The result of a round trip: every control but pictures, and what belongs to no adapter."""
    kept = [
        replace(slot, checkpoint=titles.get(n, slot.checkpoint), mask="", **adapter(slot))
        for n, slot in enumerate(settings.co_models, 1)
    ]
    main = settings.main_adapter
    return replace(
        settings, main_adapter=replace(main, **adapter(main)), co_models=(*kept, *(CoModel(),) * (slots - len(kept)))
    )


def adapter(of: CoModel | AdapterSettings) -> dict[str, Any]:
    """A model's adapter after a round trip."""
    return {"image": ""} if of.adapter not in ("", "None") else vars(AdapterSettings())


PIECES = (
    *(
        "red",
        " ",
        ", ",
        ": ",
        "\n",
        '"',
        "\\",
        "(a:1.2)",
        "<lora:x:1>",
        "AMDM 1 gamma: 1",
        "[a|b]",
        "ж",
        "猫",
        "🐈",
        "\t",
    ),
)
SPECIAL = (
    *("512x512", "1x2", "AMDM 1 prompt", '"', '""', '"a"', '"a", b: "c"', " a", "a ", "\\", "'", "None", "False", "\r"),
)
texts = st.one_of(
    st.just(""),
    st.sampled_from(SPECIAL),
    st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    st.text(st.characters(codec="utf-8"), max_size=12),
)


def picture(colour: tuple[int, ...]) -> str:
    return as_text(Image.new("RGBA" if len(colour) > 3 else "RGB", (3, 2), colour))


RED = picture((255, 0, 0))
NO_ADAPTERS_OWN: dict[str, Any] = {"layout": EXAMPLE, "strength": 0.5, "image": RED}


def all_settings() -> st.SearchStrategy[Settings]:
    """Settings that are on, with checkpoints, adapters and pictures that the fake host has, and others."""
    drawn = bodies(
        SLOTS,
        checkpoint=st.sampled_from([*TITLES, MAIN_CHECKPOINT, "None", "lost.safetensors"]),
        adapter=st.sampled_from(["None", "", *ADAPTERS, "lost.ckpt"]),
        prompt=texts,
        negative_prompt=texts,
        mask=st.sampled_from(["", RED]),
        image=st.just(""),
    )
    return drawn.map(lambda body: Settings.from_dict({**body, "enabled": True, "compare": False}))


def can_be_read_back(settings: Settings) -> bool:
    """The WebUI's reader takes this for a size and loses the line break, however an extension writes it."""
    prompts = [text for slot in settings.co_models for text in (slot.prompt, slot.negative_prompt)]
    return not any(re.fullmatch(r"\d+x\d+\n", text) for text in prompts)


def one(**slot: Any) -> Settings:
    return Settings(enabled=True, co_models=(CoModel(checkpoint=TITLES[0], **slot),))


@given(all_settings(), texts, texts)
def test_a_pasted_picture_gives_its_settings_back(settings: Settings, prompt: str, negative: str) -> None:
    assume(can_be_read_back(settings))
    titles = {number: slot.checkpoint for number, slot in settings.active if settings.mixes}
    assert round_trip(settings, titles, prompt=prompt, negative=negative) == as_it_was(settings, titles)


@pytest.mark.parametrize("text", SPECIAL)
def test_a_prompt_of_any_kind_comes_back(text: str) -> None:
    settings = one(prompt=text, negative_prompt=text)
    assert round_trip(settings, {}) == as_it_was(settings, {})


@given(all_settings())
@example(one(prompt="a, b: c\nd"))
def test_an_infotext_in_a_request_gives_the_settings_back(settings: Settings) -> None:
    """The API reads an infotext without telling extensions, so what is written must do by itself."""
    prompts = [text for slot in settings.co_models for text in (slot.prompt, slot.negative_prompt)]
    assume(not any(SIZE.match(text) for text in prompts))
    titles = {number: slot.checkpoint for number, slot in settings.active}
    entries = infotext.written(settings, titles)
    assert all(re.fullmatch(r"\w[\w /-]+", key) for key in entries)
    assert all(isinstance(value, str) and value for value in entries.values())
    assert pasted(read(picture_text(entries)), SLOTS, page=False) == as_it_was(settings, titles)


@pytest.mark.parametrize(
    ("main", "slot", "beside"),
    [
        ({}, {}, {}),
        ({"steps": 8}, {}, {"AMDM steps": "8"}),
        *(({"evaluations": count}, {}, {"AMDM evaluations": str(count)}) for count in (0, 7)),
        *(({}, {"gamma_end": end}, {"AMDM 1 gamma end": f"{end:g}"}) for end in (0.0, 0.3)),
        ({}, {"region": "0 0 0.5 1", "feather": 0.1}, {"AMDM 1 region": "0 0 0.5 1", "AMDM 1 feather": "0.1"}),
        ({}, {"mask": RED}, {"AMDM 1 mask": fingerprint(RED)}),
        # what belongs to no adapter is left out
        ({"main_adapter": AdapterSettings(**NO_ADAPTERS_OWN)}, NO_ADAPTERS_OWN, {}),
        (
            {"steps": 0, "main_adapter": AdapterSettings(adapter=ADAPTERS[1], until=0.5)},
            {},
            {"AMDM steps": "0", "AMDM main adapter": ADAPTERS[1], "AMDM main adapter until": "0.5"},
        ),
    ],
)
def test_what_is_written_is_short(main: dict[str, Any], slot: dict[str, Any], beside: dict[str, str]) -> None:
    settings = replace(one(gamma=0.7, **slot), **main)
    short = {
        **{"AMDM": "True", "AMDM steps": "auto", "AMDM eta": "0"},
        **{"AMDM 1 checkpoint": TITLES[1], "AMDM 1 gamma": "0.7"},
    }
    assert infotext.written(settings, {1: TITLES[1]}) == short | beside
    assert round_trip(settings, {}) == as_it_was(settings, {})


def test_slots_keep_their_numbers_and_empty_ones_are_left_out() -> None:
    idle = (CoModel(), CoModel(checkpoint="a", enabled=False), CoModel(checkpoint="a", gamma=0.0))
    settings = Settings(enabled=True, co_models=(*idle, CoModel(checkpoint=MAIN_CHECKPOINT, noise="independent")))
    entries = infotext.written(settings, {4: MAIN_CHECKPOINT})
    assert {key: value for key, value in entries.items() if re.search(r"\d", key)} == {
        **{"AMDM 2 enabled": "False", "AMDM 2 checkpoint": "a", "AMDM 2 gamma": "0.5"},
        **{"AMDM 3 checkpoint": "a", "AMDM 3 gamma": "0"},
        **{"AMDM 4 checkpoint": MAIN_CHECKPOINT, "AMDM 4 gamma": "0.5", "AMDM 4 noise": "independent"},
    }
    assert pasted(read(picture_text(entries)), 4, page=False) == settings


def test_a_switch_is_read_as_what_it_means() -> None:
    """A WebUI's API makes a switch of a text by Python's rules, to which "False" is true."""
    key = infotext.SwitchKey("AMDM 2 enabled")
    entries: dict[str, int] = {key: 1}
    assert key == "AMDM 2 enabled" and entries["AMDM 2 enabled"]
    assert [key({}), key({key: "True"}), key({key: "False"})] == [None, True, False]


def test_what_was_written_can_be_taken_back() -> None:
    settings = Settings(
        enabled=True, correction="paper", co_models=(CoModel(checkpoint="a", prompt="b", noise="independent"),)
    )
    others = {"Denoising strength": 0.5, "AMDM of another kind": "x"}
    entries = {**others, **infotext.written(settings, {})}
    assert infotext.without(entries) == others
    assert len(entries) > len(others)


def test_a_picture_without_amdm_switches_it_off_and_leaves_the_rest() -> None:
    params = expanded(read(picture_text({})), SLOTS)
    assert params["AMDM"] == "False"
    assert [key for key in params if key.startswith("AMDM ")] == []


def test_absent_entries_go_back_to_their_defaults() -> None:
    params = expanded({"AMDM": "True", "AMDM 2 checkpoint": TITLES[0]}, 2)
    assert pasted(params, 2) == Settings(enabled=True, co_models=(CoModel(), CoModel(checkpoint=TITLES[0])))
    shown = {label: params[label] for label in ("AMDM steps", "AMDM evaluations", "AMDM 1 gamma end")}
    assert shown == {"AMDM steps": "auto", "AMDM evaluations": "auto", "AMDM 1 gamma end": ""}


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("styles/beta.safetensors", TITLES[1]),
        ("styles/beta.safetensors [0000000000]", TITLES[1]),
        ("gone.safetensors [3333333333]", "gone.safetensors [3333333333]"),
        (MAIN_CHECKPOINT, MAIN_CHECKPOINT),
        ("None", "None"),
    ],
)
def test_a_checkpoint_is_shown_by_its_present_title(written: str, shown: str) -> None:
    assert expanded({"AMDM": "True", "AMDM 1 checkpoint": written}, 1)["AMDM 1 checkpoint"] == shown


def test_what_a_user_does_not_want_to_paste_stays_away() -> None:
    host = FakeHost(infotext_skip_pasting=["AMDM", "AMDM 1 prompt"])
    params = expanded({"AMDM 1 checkpoint": TITLES[0]}, 1, host)
    assert "AMDM" not in params and "AMDM 1 prompt" not in params
    assert params["AMDM 1 gamma"] == "0.5"
    assert expanded({}, 1, host) == {}


def test_a_picture_with_more_slots_than_the_panel_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(enabled=True, co_models=(CoModel(checkpoint=TITLES[0]),) * 3)
    params = read(picture_text(infotext.written(settings, {})))
    with caplog.at_level(logging.WARNING):
        infotext.expand(params, 2, FakeHost())
    assert "co-model 3" in caplog.text
    assert pasted(params, 2).co_models == settings.co_models[:2]


def test_an_adapters_picture_is_written_as_its_fingerprint_alone(caplog: pytest.LogCaptureFixture) -> None:
    red, blue = picture((255, 0, 0)), picture((0, 0, 255))
    main = AdapterSettings(adapter=ADAPTERS[0], image=blue)
    settings = replace(one(adapter=ADAPTERS[0], image=red), main_adapter=main)
    entries = infotext.written(settings, {})
    assert entries["AMDM 1 adapter image"] == fingerprint(red) != fingerprint(blue)
    assert entries["AMDM main adapter image"] == fingerprint(blue)
    params = expanded(read(picture_text(entries)), SLOTS)
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match=fingerprint(red)):
        infotext.pasted_image("AMDM 1 adapter image", params)
    assert fingerprint(red) in caplog.text
    infotext.pasted_image("AMDM 2 adapter image", params)


def test_a_mask_is_written_as_its_fingerprint_with_its_transparency() -> None:
    """Masks that differ in their transparency alone are two masks."""
    masks = [picture((0, 0, 0)), picture((0, 0, 0, 255)), picture((0, 0, 0, 128)), picture((0, 0, 0, 0))]
    entries = [infotext.written(one(mask=mask), {})["AMDM 1 mask"] for mask in masks]
    assert entries[0] == entries[1], "one picture, in two kinds of file"
    assert len(set(entries)) == 3


@pytest.mark.parametrize("file", [*ADAPTERS, "lost.ckpt", "None"])
def test_of_an_adapters_inputs_those_that_it_looks_at_are_left(file: str) -> None:
    adapted: dict[str, Any] = {"adapter": file, "layout": EXAMPLE, "strength": 0.5, "image": RED}
    given = replace(one(**adapted), main_adapter=AdapterSettings(**adapted))
    left = adapter_inputs.used_alone(FakeHost(), given)
    image, layout = {ADAPTERS[0]: (RED, ""), ADAPTERS[1]: ("", EXAMPLE), "None": ("", "")}.get(file, (RED, EXAMPLE))
    expected: dict[str, Any] = {
        "adapter": file,
        "layout": layout,
        "strength": 1.0 if file == "None" else 0.5,
        "image": image,
    }
    assert left.main_adapter == AdapterSettings(**expected)
    assert left == replace(one(**expected), main_adapter=left.main_adapter)


@pytest.mark.parametrize(
    "title", ["Pony v6.5.safetensors", "sd/Pony v6.5.ckpt [0123456789]", "a b\\sd\\Pony v6.5.safetensors [ABCDEF]"]
)
def test_the_line_of_what_ran_has_a_files_name_alone_wherever_the_webui_runs(title: str) -> None:
    ran = infotext.ran_line(Ran(3, 20, [(title, 4)], 0.9, 7.1))
    assert ran == "2 models, 3 of 20 steps, 4 evaluations of Pony v6.5, +0.9 s of 7.1 s"
