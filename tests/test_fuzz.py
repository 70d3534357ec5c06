"""Whatever is given is taken, or refused in a sentence: some cases of each of `fuzz.py`, every time the same.

AMDM_FUZZ_CASES: how many of each, AMDM_FUZZ_SEED: others than usual.
"""

from __future__ import annotations

import os

import fuzz
import pytest
from hypothesis import HealthCheck, given, seed, settings

CASES = int(os.environ.get("AMDM_FUZZ_CASES", "500"))
SEED = int(os.environ.get("AMDM_FUZZ_SEED", "0"))
PARTS = 4
"""Tests that a target's cases are divided among, so that they can run beside each other."""
BATCH = 500
"""Cases of one run of Hypothesis, whose memory of what it has tried costs more and more."""


@pytest.mark.filterwarnings("ignore")  # what Pillow remarks of damaged files
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_whatever_is_given_is_taken_or_refused_in_a_sentence(name: str, part: int) -> None:
    values, holds = fuzz.TARGETS[name]
    every = list(HealthCheck)
    for done in range(0, CASES // PARTS, BATCH):
        some = settings(max_examples=min(BATCH, CASES // PARTS - done), database=None, suppress_health_check=every)
        seed(SEED + part + done)(some(given(values)(holds)))()
