"""Guidance scales on a real WebUI: mixing takes no weak guidance away."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lib_amdm.core.aggregation import slerp
from lib_amdm.core.arguments import Prediction
from lib_amdm.core.strength import ENOUGH, strengthened

from .probed import Probed, settings, slot

PROMPTS = {"alpha": "a red square", "beta": "a blue circle in the rain"}
CLOSE = 1e-3
"""A share of the latent's largest number."""


def latent(probed: Probed, amdm: dict[str, Any] | None = None, **request: Any) -> torch.Tensor:
    """Draw in one step, whose latent is the model's prediction."""
    return torch.from_numpy(probed.draw(amdm, steps=1, **request).latent)


def prediction(probed: Probed, checkpoint: str, cfg_scale: float) -> Prediction:
    request: dict[str, Any] = {"checkpoint": checkpoint, "prompt": PROMPTS[checkpoint]}
    prompted = latent(probed, cfg_scale=1.0, **request)
    guided = latent(probed, cfg_scale=cfg_scale, **request)
    return Prediction(guided, (cfg_scale * prompted - guided) / (cfg_scale - 1))


@pytest.mark.parametrize("gamma", [0.5, 0.2])
@pytest.mark.parametrize("cfg_scale", [2.0, 4.0, ENOUGH + 1])
def test_weak_guidance_counts_as_far_as_the_models_differ(probed: Probed, cfg_scale: float, gamma: float) -> None:
    models = [prediction(probed, checkpoint, cfg_scale) for checkpoint in PROMPTS]
    co_model = slot("beta", prompt=PROMPTS["beta"], gamma=gamma, eta=0)
    drawn = latent(
        probed, settings(co_model, steps=1, eta=0), checkpoint="alpha", prompt=PROMPTS["alpha"], cfg_scale=cfg_scale
    )
    strong, other = strengthened(models, [gamma], [cfg_scale] * 2)
    expected = slerp(strong, other, gamma)
    halved = slerp(models[0].denoised, models[1].denoised, gamma)
    size = expected.abs().max()
    assert (drawn - expected).abs().max() < CLOSE * size
    assert ((expected - halved).abs().max() > 5 * CLOSE * size) == (cfg_scale < ENOUGH)
