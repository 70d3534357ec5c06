"""Whatever is given is taken, or refused in a sentence: a few cases of each of `fuzz.py`, every time the same."""

from __future__ import annotations

import fuzz
import pytest

CASES = 500


@pytest.mark.filterwarnings("ignore")  # what Pillow remarks of damaged files
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_whatever_is_given_is_taken_or_refused_in_a_sentence(name: str) -> None:
    fuzz.fuzz(name, CASES, number=0)
