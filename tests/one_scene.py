"""One scene of the bundled checkpoints, which every way to use AMDM draws: its texts, its settings, its latents."""

from __future__ import annotations

from torch import Tensor

from amdm_lab.bundled import WEIGHTS
from amdm_lab.studio.host import GuidedDenoiser, Job, Standalone, Variant
from lib_amdm.settings import Settings

MAIN = "a circle at the top left, a triangle at the bottom right"
OTHER = "something blue at the top left, something red at the bottom right"
SEEDS, STEPS, SCALE, SIZE = (0, 1, 2, 3), 20, 5.0, 128


def asked(co_model: str) -> dict[str, object]:
    """AMDM's defaults with a co-model."""
    return {"enabled": True, "co_models": [{"checkpoint": co_model, "prompt": OTHER}]}


def of_k_diffusion(mixed: bool, whole_timesteps: bool = False) -> Tensor:
    """The latents without a host: Euler, whose timesteps spread evenly from the last of the training to the first.

    whole_timesteps: the networks get them rounded, as ComfyUI does.
    """
    job = Job("shapes", [MAIN] * len(SEEDS), SEEDS, steps=STEPS, cfg_scale=SCALE, width=SIZE, height=SIZE)
    variant = Variant(denoiser=_rounding) if whole_timesteps else Variant()
    drawn = Standalone(WEIGHTS).latents(job, Settings.from_dict(asked("colours") if mixed else {}), variant)
    assert drawn.evaluations == STEPS
    return drawn.latents


def _rounding(denoiser: GuidedDenoiser) -> GuidedDenoiser:
    denoiser.model.wrap.quantize = True
    return denoiser


def far(a: Tensor, b: Tensor) -> list[float]:
    """The largest difference of each picture, in units of the second's size."""
    return ((a - b).abs().amax((1, 2, 3)) / b.abs().amax((1, 2, 3))).tolist()
