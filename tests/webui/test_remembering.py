"""Other extensions' functions that remember a model's outputs remember each model apart.

The probe puts small ones on the main model: a wrapper of the UNet, a hook on it, one of its class, guidance.
"""

from __future__ import annotations

from typing import Any

import pytest

from .probed import STEPS, Probed, mirrored, settings, slot
from .test_features import CLOSE, VISIBLE, off

GUIDANCE = pytest.mark.needs("guidance functions")
KINDS = ["wrapper", "hook", "class", pytest.param("guidance", marks=GUIDANCE)]


@pytest.fixture
def alone(probed: Probed, kind: str) -> Any:
    """The latent that the main model gives with the functions, without AMDM."""
    alone = probed.draw(fault={"remembers": kind}).latent
    assert off(probed.draw().latent, alone) > VISIBLE
    return alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [{}, {"prompt": "a blue circle", "cfg_scale": 2}], ids=["its prompt", "another prompt"])
def test_the_main_models_picture_is_its_own(probed: Probed, alone: Any, kind: str, own: dict[str, Any]) -> None:
    ours = settings(slot("main", gamma=1e-6, eta=0, **own), eta=0, steps=STEPS)
    assert off(probed.draw(ours, fault={"remembers": kind}).latent, alone) < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_main_remembers_by_itself_what_the_main_model_does(probed: Probed, alone: Any, kind: str) -> None:
    assert off(probed.draw(mirrored("main"), fault={"remembers": kind}).latent, alone) < CLOSE


@pytest.mark.parametrize("kind", ["class", *(pytest.param(each, marks=GUIDANCE) for each in ("guidance", "formula"))])
def test_what_acts_on_every_model_acts_on_a_checkpoint_too(probed: Probed, alone: Any, kind: str) -> None:
    """The main one's own, as a co-model, is guided as the main one is, and remembers by itself."""
    drawn = probed.draw(mirrored(), fault={"remembers": kind})
    assert off(drawn.latent, alone) < CLOSE
    assert ("replaces" in drawn.comments and "amdm_probe" in drawn.comments) == (kind == "class")
