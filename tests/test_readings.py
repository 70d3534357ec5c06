"""Numbers from a device, and the time that it takes for something."""

from __future__ import annotations

import time

import torch

from lib_amdm.readings import Reading, Stopwatch


def test_a_reading_is_the_number() -> None:
    reading = Reading(torch.tensor([2.5]))
    assert reading.arrived and reading.value() == 2.5


def test_a_stopwatch_counts_what_runs_in_it_and_nothing_else() -> None:
    watch = Stopwatch(torch.device("cpu"))
    assert watch.seconds == 0
    for _ in range(2):
        with watch.running():
            time.sleep(0.02)
        time.sleep(0.05)
    assert 0.04 <= watch.seconds < 0.09


def test_a_stopwatch_counts_what_ends_in_an_error() -> None:
    watch = Stopwatch(torch.device("cpu"))
    try:
        with watch.running():
            time.sleep(0.02)
            raise ValueError
    except ValueError:
        pass
    assert watch.seconds >= 0.02
