"""The rule of the paper's released code, for comparison: how it mixes two models and pulls them back.

It differs from the paper, and from `lib_amdm.core.aggregation`: its mix assumes that latents are orthogonal; the peak
is the mean of one step of the training, from the noise predicted one sampling step before; the pull has a fixed length
and may step past the peak; every model is evaluated in every step. Its sampler is DDIM with eta 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lib_amdm.core.aggregation import PAPER_LATENT_SIZE
from lib_amdm.core.levels import euler_step, variance_exploding

SHARE = 0.5
"""Weight of the main model; the other's is sqrt(1 - SHARE^2)."""
PULLS = (55.0, 45.0)
"""The lengths by which the main model and the other are pulled back, for a latent of 4x64x64."""
FIRST, LAST = 1, 3
"""The first and the last step, counted from 0, after which the models are mixed."""

_BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
"""Stable Diffusion's noise schedule."""


@torch.no_grad()
def sample_released(
    models: Sequence[Callable[[Tensor, Tensor], Tensor]],
    latents: Sequence[Tensor],
    sigmas: Tensor,
    last: int = LAST,
) -> Tensor:
    """Sample, and return the main model's final latent, (batch, ...).

    models: D(x, sigma) of the main model and of the other.
    latents: the first x0 + sigma * noise of each.
    """
    noises: list[Tensor] = []
    for k, (level, level_next) in enumerate(zip(sigmas[:-1].tolist(), sigmas[1:].tolist())):
        denoised = [model(x, x.new_full((len(x),), level)) for model, x in zip(models, latents)]
        ends = variance_exploding(level), variance_exploding(level_next)
        stepped = [euler_step(d, x, *ends) for d, x in zip(denoised, latents)]
        if noises and FIRST <= k <= last:
            before = sigmas[k - 1].item()
            peaks = [_peak(_preserving(x, level), noise, before) for x, noise in zip(latents, noises)]
            main, other = (_preserving(y, level_next) for y in stepped)
            pulled = _pulled(mixed(main, other), peaks)
            stepped = [z * math.hypot(1, level_next) for z in pulled]
        noises = [(x - d) / level for d, x in zip(denoised, latents)]
        latents = stepped
    return latents[0]


def mixed(main: Tensor, other: Tensor, share: float = SHARE) -> Tensor:
    """Mix two variance-preserving latents; two equal ones grow, by 1.37 times at the default share."""
    return share * main + math.sqrt(1 - share**2) * other


def _preserving(x: Tensor, sigma: float) -> Tensor:
    return x / math.hypot(1, sigma)


def _peak(z: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """Return the DDPM mean one step of the training below the timestep of `sigma`."""
    remaining = 1 - _beta(sigma)
    return (z - (1 - remaining) * math.hypot(1, 1 / sigma) * noise) / math.sqrt(remaining)


def _beta(sigma: float) -> float:
    levels = np.sqrt(1 / np.cumprod(1 - _BETAS) - 1)
    return float(np.interp(sigma, levels, _BETAS))


def _pulled(m: Tensor, peaks: Sequence[Tensor]) -> list[Tensor]:
    scale = math.sqrt(m[0].numel() / PAPER_LATENT_SIZE)
    pulled_back = []
    for peak, pull in zip(peaks, PULLS):
        away = m - peak
        length = away.flatten(1).norm(dim=1).clamp_min(1e-12)
        pulled_back.append(m - pull * scale * away / length.view(-1, *[1] * (m.ndim - 1)))
    return pulled_back
