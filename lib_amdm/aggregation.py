"""The arithmetic of AMDM: spherical aggregation and the correction towards each model's own posterior mean.

Everything is per sample (dimension 0 is the batch), computed in float32 or wider, and returned in the input's dtype
and device. `slerp` and the relative correction do not change when all latents are scaled by one factor, so they hold
for variance-exploding and variance-preserving latents alike; the paper's absolute step needs the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PAPER_LATENT_SIZE = 4 * 64 * 64
CORRECTIONS = ("relative", "paper")
Mix = Callable[[Tensor, Tensor, float], Tensor]
"""Two latents and the share of the second to one latent."""


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation from `a` (t = 0) to `b` (t = 1): equation 9 of the AMDM paper.

    sin((1 - t) w) / sin(w) * a + sin(t w) / sin(w) * b, with w the angle between a and b, for each sample of shape
    (batch, ...). Where the angle says nothing (parallel, opposite or zero vectors) it is the straight line.
    """
    if t == 0:
        return a
    if t == 1:
        return b.to(a)
    wide = torch.promote_types(a.dtype, torch.float32)
    flat_a, flat_b = a.to(wide).flatten(1), b.to(a.device, wide).flatten(1)
    unit_a, unit_b = (x / x.norm(dim=1, keepdim=True).clamp_min(torch.finfo(wide).tiny) for x in (flat_a, flat_b))
    # atan2 keeps its accuracy at small and at wide angles, where acos of the dot product loses it
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    sine = angle.sin()
    empty = (flat_a.norm(dim=1, keepdim=True) == 0) | (flat_b.norm(dim=1, keepdim=True) == 0)
    straight = (sine.abs() < 1e-4) | empty
    sine = torch.where(straight, torch.ones_like(sine), sine)
    mixed = (((1 - t) * angle).sin() / sine) * flat_a + ((t * angle).sin() / sine) * flat_b
    mixed = torch.where(straight, torch.lerp(flat_a, flat_b, t), mixed)
    return mixed.view_as(a).to(a.dtype)


def posterior_mean(denoised: Tensor, x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """Mean of p(x_next | x, x0 = denoised) for the stride sigma -> sigma_next: the peak of the paper's Proposition 1.

    mu = D + (sigma_next / sigma)^2 (x - D), for latents x = x0 + sigma * noise; sigmas are numbers, or tensors of shape
    () or (batch,).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    ratio = _column(sigma_next, x, wide) / _column(sigma, x, wide)
    x, denoised, kind = x.to(wide), denoised.to(wide), x.dtype
    return (denoised + ratio**2 * (x - denoised)).to(kind)


def euler_step(denoised: Tensor, x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
    """y = D + (sigma_next / sigma) (x - D): Euler's step, which is DDIM's with eta 0; shapes as in `posterior_mean`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    ratio = _column(sigma_next, x, wide) / _column(sigma, x, wide)
    x, denoised, kind = x.to(wide), denoised.to(wide), x.dtype
    return (denoised + ratio * (x - denoised)).to(kind)


def correct(m: Tensor, mu: Tensor, eta: float, rule: str = "relative") -> Tensor:
    """Pull the aggregated latent `m` back towards a model's own posterior mean `mu` (Proposition 1 of the AMDM paper).

    relative: m - eta (m - mu), eta in [0, 1] the share of the way back.
    paper: m - s (m - mu) / |m - mu| with s = eta sqrt(n / 16384), n = numbers in one latent, for variance-preserving
    latents; it can step past the peak.
    """
    if rule not in CORRECTIONS:
        raise ValueError(f'correction must be one of {", ".join(CORRECTIONS)}, not "{rule}"')
    if eta == 0:
        return m
    wide = torch.promote_types(m.dtype, torch.float32)
    away = m.to(wide) - mu.to(m.device, wide)
    if rule == "paper":
        size = away[0].numel()
        length = away.flatten(1).norm(dim=1).clamp_min(torch.finfo(wide).tiny)
        away = away / _column(length, m, wide) * (size / PAPER_LATENT_SIZE) ** 0.5
    return (m.to(wide) - eta * away).to(m.dtype)


def aggregate(
    latents: Sequence[Tensor],
    means: Sequence[Tensor],
    gammas: Sequence[float],
    etas: Sequence[float],
    rule: str = "relative",
    scale: float = 1.0,
    mix: Mix = slerp,
) -> list[Tensor]:
    """One aggregation of all models: slerp the co-models into the main one in slot order, then correct each model.

    latents, means: y_i and mu_i of the main model (first) and of each co-model, shape (batch, ...). gammas: one share
    for each co-model. etas: one for each model. scale: what the latents must be multiplied by to be
    variance-preserving (the paper's rule alone needs it). mix: what is done in slerp's place, for comparisons. Returns
    the new latent of each model, in the same order.
    """
    m = latents[0]
    for y, gamma in zip(latents[1:], gammas):
        m = mix(m, y, gamma)
    if rule == "paper":
        etas = [eta / scale for eta in etas]
    return [correct(m, mu, eta, rule) for mu, eta in zip(means, etas)]


def _column(value: Tensor | float, like: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` as a tensor that broadcasts over the samples of `like`."""
    value = torch.as_tensor(value, device=like.device, dtype=dtype)
    return value.reshape(-1, *[1] * (like.ndim - 1)) if value.ndim else value
