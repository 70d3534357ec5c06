"""The line that says before a picture what will be drawn."""

from __future__ import annotations

import pytest
from fake_host import FakeHost

from lib_amdm.settings import CoModel, Settings, flat
from lib_amdm.webui import plan_line

BETA, EMPTY = CoModel(checkpoint="beta"), CoModel()


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
        (Settings(enabled=True, compare=True, co_models=(BETA,)), "Compare: 3 pictures for each, and a grid."),
        (Settings(enabled=True, compare=True, co_models=(BETA, BETA)), "Compare: 4 pictures for each, and a grid."),
    ],
)
def test_what_it_says(settings: Settings, said: str) -> None:
    told = plan_line.say(settings, FakeHost())
    assert told.startswith(said) if said else told == ""


def test_it_reads_the_controls_and_is_silent_while_one_is_being_changed() -> None:
    values = [spec.shown(spec.default) for _, spec in flat(2)]
    values[0] = True
    assert plan_line.of_controls(values, FakeHost()) == "No co-model is run: choose a checkpoint."
    values[1] = "1x"
    assert plan_line.of_controls(values, FakeHost()) == ""
