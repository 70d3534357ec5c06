"""Whatever is given is taken, or refused in a sentence: a few cases of each of `fuzz.py`, every time the same."""

from __future__ import annotations

import fuzz
import pytest

CASES = 500
SEEDS = (0, 1, 2, 3)
"""Each for a part of a target's cases: the parts are tests of their own, so that they can run beside each other."""


@pytest.mark.filterwarnings("ignore")  # what Pillow remarks of damaged files
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_whatever_is_given_is_taken_or_refused_in_a_sentence(name: str, seed: int) -> None:
    fuzz.fuzz(name, CASES // len(SEEDS), number=seed)
