"""Sentences before a picture: the line of what will be drawn, and the marks of checkpoints that do not fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost

from lib_amdm.families import Family
from lib_amdm.settings import AdapterSettings, CoModel, Settings, flat
from lib_amdm.webui import fitting, plan_line

SLOT, EMPTY = CoModel(checkpoint=TITLES[1]), CoModel()
IP, NONE = AdapterSettings(adapter=ADAPTERS[0]), AdapterSettings()
LOST = "lost.safetensors"
SD1, SDXL, FLUX = Family("SD1"), Family("SDXL"), Family("Flux", is_flow=True)
INPAINTING = Family("SDXL", "inpainting")
ALPHA, BETA, GAMMA = TITLES


@pytest.mark.parametrize(
    ("name", "family", "cfg_scale", "own", "is_said"),
    [
        (BETA, SDXL, 1, 0.0, True),
        (BETA, SDXL, 1.0, 4.0, False),
        (BETA, SDXL, 1.5, 0.0, False),
        (BETA, FLUX, 1, 0.0, False),
        (BETA, None, 1, 0.0, False),
        ("main", SDXL, 1, 0.0, False),
        ("some-Turbo.safetensors", SDXL, 1, 0.0, False),
    ],
)
def test_a_co_model_that_needs_guidance_and_has_none_is_named(
    name: str, family: Family | None, cfg_scale: float, own: float, is_said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = FakeHost()
    monkeypatch.setattr(host, "checkpoint_family", lambda of: family if of == name else None)
    settings = Settings(enabled=True, co_models=(EMPTY, CoModel(checkpoint=name, cfg_scale=own)))
    said = plan_line.unguided(settings, cfg_scale, host)
    assert bool(said) == is_said and all(line.startswith("Co-model 2 has no guidance") for line in said)


GAMMA_0, LATE, OFF = replace(SLOT, gamma=0), replace(SLOT, gamma=0, gamma_end=0.8), replace(SLOT, enabled=False)
LINES: dict[str, list[dict[str, Any]]] = {
    "": [
        *({"enabled": False, "co_models": (EMPTY,)}, {"co_models": (SLOT, EMPTY)}, {"co_models": (LATE,)}),
        *({"co_models": (SLOT, LATE)}, {"main_adapter": IP, "co_models": (EMPTY, EMPTY)}),
        {"co_models": (CoModel(checkpoint="main"),)},
        {"main_adapter": IP, "steps": 0, "co_models": (EMPTY,)},
    ],
    "No co-model is run: choose a checkpoint.": [{"co_models": (EMPTY, EMPTY), "compare": on} for on in (False, True)],
    "No co-model is run: raise gamma.": [{"co_models": (GAMMA_0,)}],
    "No co-model is run: switch one on.": [{"co_models": (OFF,)}],
    "No co-model is run: raise steps.": [{"steps": 0, "co_models": (SLOT,), "main_adapter": on} for on in (IP, NONE)],
    "No co-model is run: lower start (3) below steps (3), or raise steps.": [
        {"steps": 3, "start": 3, "co_models": (SLOT,)}
    ],
    "Co-model 2 has no checkpoint, so it is not run.": [{"co_models": (SLOT, CoModel(prompt="x"))}],
    "Co-model 2 has gamma 0": [
        {"co_models": (SLOT, GAMMA_0)},
        {"co_models": (SLOT, replace(GAMMA_0, checkpoint=LOST))},
    ],
    'Co-model 2: "lost.safetensors" is not in the list.': [{"co_models": (SLOT, replace(SLOT, checkpoint=LOST))}],
    'Adapter of co-model 1: "lost.safetensors" is not in the list.': [{"co_models": (replace(SLOT, adapter=LOST),)}],
    'Main adapter: "lost.safetensors" is not in the list.': [{"main_adapter": replace(IP, adapter=LOST)}],
    "Co-model 2 is switched off.": [{"co_models": (SLOT, OFF)}],
    "The main adapter has strength 0, so it does nothing.": [
        {"main_adapter": replace(IP, strength=0), "co_models": (SLOT,)}
    ],
    "The adapter of co-model 2 has until 0, so it does nothing.": [
        {"co_models": (SLOT, replace(SLOT, adapter=IP.adapter, until=0))}
    ],
    "Compare: 3 pictures for each, and a grid.": [{"compare": True, "co_models": (SLOT,)}],
    "Compare: 4 pictures for each, and a grid.": [{"compare": True, "co_models": (SLOT, SLOT)}],
}


@pytest.mark.parametrize(("said", "given"), [(said, given) for said, each in LINES.items() for given in each])
def test_what_it_says(said: str, given: dict[str, Any]) -> None:
    line = unescape(plan_line.say(Settings(**{"enabled": True, **given}), FakeHost()))
    assert line.startswith(said) if said else line == ""
    assert ("Compare" in line) == ("Compare" in said)


def test_it_reads_the_controls_and_is_silent_while_one_is_being_changed() -> None:
    values = [spec.shown(spec.default) for _, spec in flat(2)]
    values[0] = True
    assert plan_line.of_controls(values, FakeHost()) == "No co-model is run: choose a checkpoint."
    values[1] = "1x"
    assert plan_line.of_controls(values, FakeHost()) == ""


@pytest.fixture
def host() -> FakeHost:
    """A host whose main checkpoint is the first, and whose third says nothing of itself."""
    host = FakeHost()
    host.main, host.families = ALPHA, {ALPHA: SD1, BETA: INPAINTING}
    return host


def marked(host: FakeHost, main: str, on_page: Sequence[str] = TITLES) -> dict[str, str]:
    """The entries of a page's list that the style sheet marks, with what it writes behind them."""
    sheet = fitting.marks(host, main, [*host.titles])
    found: dict[str, str] = {}
    for selectors, family in re.findall(r'li:is\(([^{]*?)\)::after\{content:"(.*?)"', sheet):
        for beginning, name in re.findall(r'aria-label(\^?)="(.*?)"', selectors):
            fits = str.startswith if beginning else str.__eq__
            found |= {title: family for title in on_page if fits(title, name)}
    return found


def test_what_does_not_go_with_the_main_checkpoint_is_marked_with_its_family(host: FakeHost) -> None:
    assert marked(host, ALPHA) == {BETA: r"\b7  SDXL inpainting"}
    assert list(marked(host, BETA)) == [ALPHA]
    for unknown in (GAMMA, "lost", ""):
        assert fitting.marks(host, unknown, TITLES) == ""


def test_the_pages_list_is_marked_when_the_hosts_titles_have_got_their_hashes_since(host: FakeHost) -> None:
    bare = [title.partition(" [")[0] for title in TITLES]
    assert marked(host, ALPHA, bare) == {bare[1]: r"\b7  SDXL inpainting"}
    before = marked(host, ALPHA, [*TITLES, "styles/beta.safetensors.ckpt", "beta.safetensors"])
    host.titles, host.families = bare, {bare[0]: SD1, bare[1]: INPAINTING}
    assert list(marked(host, ALPHA, TITLES)) == list(before) == [BETA]


def test_a_title_cannot_end_the_sheet_or_its_string(host: FakeHost) -> None:
    host.titles = ['</style><b>"];*{}\\\n.safetensors']
    host.families[host.titles[0]] = SDXL
    host.titles.append(ALPHA)
    sheet = fitting.marks(host, ALPHA, host.titles)
    assert sheet.count("<") == 2 and "\n" not in sheet and sheet.count("*") == 0
    assert r'b\3e \22 ]\3b \2a \7b \7d \5c \a .safetensors"' in sheet


def test_the_line_names_the_misfit_before_a_picture(host: FakeHost) -> None:
    settings = Settings(enabled=True, co_models=(CoModel(checkpoint=BETA), CoModel(checkpoint=GAMMA)))
    said = plan_line.say(settings, host)
    assert re.fullmatch(
        'Co-model 1: "styles/beta.*" is SDXL inpainting, but the main checkpoint "alpha.*" is SD1: inpainting models '
        "are also shown the mask and the known part.",
        unescape(said),
    )
    assert "Co-model 2" not in said
    assert plan_line.say(settings, host, BETA) == "", "the page's own control has the last word"
    idle = Settings(enabled=True, co_models=(CoModel(checkpoint=BETA, enabled=False), CoModel(checkpoint="main")))
    assert "but the main" not in plan_line.say(idle, host)


def test_another_latent_space_is_marked_and_said_with_its_cost(host: FakeHost) -> None:
    host.families[BETA] = SDXL
    assert marked(host, ALPHA) == {BETA: r"\b7  SDXL, through pixels"}
    assert "opacity" not in fitting.marks(host, ALPHA, host.titles)
    said = plan_line.say(Settings(enabled=True, co_models=(CoModel(checkpoint=BETA, eta=0.3),)), host)
    assert said.startswith("Co-model 1: SDXL alongside SD1 is run through pixels: 5 evaluations, ")
    assert "Co-model 1 has no latent to pull back, so its eta is not used." in said


@pytest.mark.parametrize(
    ("given", "cost"),
    [
        ({}, "5 evaluations, 10 decodings and 10 encodings (7 with samplers that add noise)"),
        ({"steps": 6}, "5 evaluations, 10 decodings and 10 encodings (6 with samplers that add noise)"),
        ({"steps": 5}, "5 evaluations, 10 decodings and 10 encodings"),
        ({"steps": 3, "evaluations": 8}, "3 evaluations, 6 decodings and 6 encodings"),
        ({"evaluations": 1}, "1 evaluation, 2 decodings and 2 encodings"),
        ({"evaluations": 0, "steps": 9}, "9 evaluations, 18 decodings and 18 encodings"),
        ({"evaluations": 0}, "2 decodings and 2 encodings in each mixed step"),
    ],
)
def test_the_cost_of_pixels_is_the_plan_s_whatever_the_latents(
    host: FakeHost, given: dict[str, Any], cost: str
) -> None:
    host.families[BETA] = SDXL
    slots = (CoModel(checkpoint=BETA), *(CoModel(checkpoint=name, noise="pixels") for name in (ALPHA, "main")))
    line = plan_line.say(Settings(enabled=True, co_models=slots, **given), host)
    said = [f"Co-model {pair} is run through pixels: {cost}." for pair in ("1: SDXL alongside SD1", "2", "3")]
    assert line == " ".join(said)
    idle = plan_line.say(Settings(enabled=True, co_models=slots, **{**given, "steps": 0}), host)
    assert idle == "No co-model is run: raise steps."


def test_a_flow_model_is_grey_where_none_are_run(host: FakeHost) -> None:
    host.families[BETA] = FLUX
    for runs in (False, True):
        host.runs_flow_models = runs
        assert (fitting.misfit(host, ALPHA, BETA) is None) == runs
        assert (fitting.through_pixels(host, ALPHA, BETA) is None) != runs
        line = unescape(plan_line.say(Settings(enabled=True, co_models=(CoModel(checkpoint=BETA),)), host))
        assert line.endswith("is SD1: in this WebUI the method needs an eps or v model.") != runs
