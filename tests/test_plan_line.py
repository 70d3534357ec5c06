"""The line that says before a picture what will be drawn."""

from __future__ import annotations

from dataclasses import replace
from html import unescape

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost

from lib_amdm.settings import AdapterSettings, CoModel, Settings, flat
from lib_amdm.webui import plan_line

BETA, EMPTY = CoModel(checkpoint=TITLES[1]), CoModel()
IP = AdapterSettings(adapter=ADAPTERS[0])
LOST = "lost.safetensors"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(enabled=False, co_models=(EMPTY,)), ""),
        (Settings(enabled=True, co_models=(BETA, EMPTY)), ""),
        (Settings(enabled=True, co_models=(EMPTY, EMPTY)), "No co-model is run: choose a checkpoint."),
        (
            Settings(enabled=True, co_models=(BETA, CoModel(prompt="x"))),
            "Co-model 2 has no checkpoint, so it is not run.",
        ),
        (Settings(enabled=True, co_models=(BETA, CoModel(checkpoint="c", gamma=0))), "Co-model 2 has gamma 0"),
        (
            Settings(enabled=True, co_models=(BETA, CoModel(checkpoint="c", enabled=False))),
            "Co-model 2 is switched off.",
        ),
        (Settings(enabled=True, co_models=(replace(BETA, gamma=0),)), "No co-model is run: raise gamma."),
        (Settings(enabled=True, co_models=(replace(BETA, gamma=0, gamma_end=0.8),)), ""),
        (Settings(enabled=True, co_models=(BETA, replace(BETA, gamma=0, gamma_end=0.8))), ""),
        (Settings(enabled=True, co_models=(replace(BETA, enabled=False),)), "No co-model is run: switch one on."),
        (Settings(enabled=True, steps=0, co_models=(BETA,)), "No co-model is run: raise steps."),
        (
            Settings(enabled=True, steps=3, start=3, co_models=(BETA,)),
            "No co-model is run: lower start (3) below steps (3), or raise steps.",
        ),
        (Settings(enabled=True, main_adapter=IP, co_models=(EMPTY, EMPTY)), ""),
        (Settings(enabled=True, main_adapter=IP, steps=0, co_models=(BETA,)), "No co-model is run: raise steps."),
        (Settings(enabled=True, main_adapter=IP, steps=0, co_models=(EMPTY,)), ""),
        (
            Settings(enabled=True, main_adapter=replace(IP, strength=0), co_models=(BETA,)),
            "The main adapter has strength 0, so it does nothing.",
        ),
        (
            Settings(enabled=True, co_models=(BETA, replace(BETA, adapter=IP.adapter, until=0))),
            "The adapter of co-model 2 has until 0, so it does nothing.",
        ),
        (
            Settings(enabled=True, co_models=(BETA, replace(BETA, checkpoint=LOST))),
            'Co-model 2: "lost.safetensors" is not in the list.',
        ),
        (
            Settings(enabled=True, co_models=(replace(BETA, adapter=LOST),)),
            'Adapter of co-model 1: "lost.safetensors" is not in the list.',
        ),
        (
            Settings(enabled=True, main_adapter=replace(IP, adapter=LOST)),
            'Main adapter: "lost.safetensors" is not in the list.',
        ),
        (Settings(enabled=True, co_models=(CoModel(checkpoint="main"),)), ""),
        (Settings(enabled=True, co_models=(BETA, replace(BETA, checkpoint=LOST, gamma=0))), "Co-model 2 has gamma 0"),
        (Settings(enabled=True, compare=True, co_models=(BETA,)), "Compare: 3 pictures for each, and a grid."),
        (Settings(enabled=True, compare=True, co_models=(BETA, BETA)), "Compare: 4 pictures for each, and a grid."),
    ],
)
def test_what_it_says(settings: Settings, said: str) -> None:
    told = unescape(plan_line.say(settings, FakeHost()))
    assert told.startswith(said) if said else told == ""


def test_it_reads_the_controls_and_is_silent_while_one_is_being_changed() -> None:
    values = [spec.shown(spec.default) for _, spec in flat(2)]
    values[0] = True
    assert plan_line.of_controls(values, FakeHost()) == "No co-model is run: choose a checkpoint."
    values[1] = "1x"
    assert plan_line.of_controls(values, FakeHost()) == ""
