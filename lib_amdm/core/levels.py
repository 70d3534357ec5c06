"""Noise levels. A latent at the level (alpha, sigma) is alpha x0 + sigma noise, whatever family the model is of.

Variance exploding (k-diffusion): alpha = 1. Variance preserving (DDIM's timesteps): alpha^2 + sigma^2 = 1. Flow
matching: alpha = 1 - t, sigma = t. The formulas never divide by the alpha that a step starts from, so they hold at
flow's first level too, where it is 0. Latents are computed in their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """A noise level. alpha: the share of the clean latent. sigma: that of the noise."""

    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """The noise-to-signal ratio, k-diffusion's sigma; it falls from level to level."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def scale(self) -> float:
        """The standard deviation of a latent whose x0 has variance 1."""
        return math.hypot(self.alpha, self.sigma)


def variance_exploding(sigma: float) -> Level:
    """Return the level of k-diffusion's sigma."""
    return Level(1.0, sigma)


def variance_preserving(alpha_cumprod: float) -> Level:
    """Return the level at which a latent has this share of the clean latent's variance (abar)."""
    return Level(math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod))


def as_exploding(level: Level) -> Level:
    """Return the variance-exploding level of the same noise-to-signal ratio; infinite for pure noise."""
    return variance_exploding(level.ratio)


def as_flow(level: Level) -> Level:
    """Return flow matching's level of the same noise-to-signal ratio."""
    total = level.alpha + level.sigma
    return Level(level.alpha / total, level.sigma / total)


Form = Callable[[Level], Level]
"""`as_exploding` or `as_flow`. Between two levels of the same noise-to-signal ratio, latents are scaled by the ratio of
their sigmas."""


def preserving_scale(sigma: Tensor) -> Tensor:
    """Return the factor from the variance-preserving latent of each sigma to the variance-exploding one."""
    return (1 + sigma**2).sqrt()


def flow(t: float) -> Level:
    """Return the level at flow matching's time t, from 1 (noise) to 0; beyond 1, more noise and nothing else."""
    return Level(max(1 - t, 0.0), t)


def euler_step(denoised: Tensor, x: Tensor, level: Level, level_next: Level) -> Tensor:
    """Take Euler's step, which is DDIM's with eta 0: y = a' D + (s'/s) (x - a D), from (a, s) to (a', s').

    denoised, x: (batch, ...), as in all functions here.
    """
    return _stepped(denoised, x, level, level_next, level_next.sigma / level.sigma)


def posterior_mean(denoised: Tensor, x: Tensor, level: Level, level_next: Level) -> Tensor:
    """Return the mean of p(x_next | x, x0 = D), the peak of the AMDM paper's Proposition 1.

    For the stride (a, s) -> (a', s'): mu = a' D + (a/a') (s'/s)^2 (x - a D)
    """
    if level_next.sigma == 0:
        return level_next.alpha * denoised
    share = (level.alpha / level_next.alpha) * (level_next.sigma / level.sigma) ** 2
    return _stepped(denoised, x, level, level_next, share)


def _stepped(denoised: Tensor, x: Tensor, level: Level, level_next: Level, share: float) -> Tensor:
    """Return a' D + share (x - a D)."""
    return torch.add((level_next.alpha - share * level.alpha) * denoised, x, alpha=share)


def prediction_change(moved: Tensor, level: Level, level_next: Level) -> Tensor:
    """Return the change of a prediction that moves the end of its Euler step by `moved`: moved / (a' - (s'/s) a).

    So D + prediction_change(x' - euler_step(D, x)) is the prediction whose Euler step from x is x'.
    """
    return moved / (level_next.alpha - level_next.sigma / level.sigma * level.alpha)
