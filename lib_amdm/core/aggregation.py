"""The arithmetic of AMDM: spherical aggregation, and the correction of the aggregated latent towards each model's own.

Everything is per sample (dimension 0 is the batch), computed in float32 or wider, and returned in the input's dtype
and device. All but the paper's absolute step stay the same when all latents are scaled by one factor, so they hold for
latents of any family (`levels`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

PAPER_LATENT_SIZE = 4 * 64 * 64
Share = float | Tensor
"""A co-model's share: one number, or a map that broadcasts to the latent, such as (1, 1, h, w)."""
Mix = Callable[[Tensor, Tensor, Share], Tensor]
"""A rule that makes one latent of two and the share of the second."""


def slerp(a: Tensor, b: Tensor, t: Share) -> Tensor:
    """Interpolate spherically from `a` (t = 0) to `b` (t = 1): equation 9 of the AMDM paper.

    sin((1 - t) w) / sin(w) * a + sin(t w) / sin(w) * b, with w the angle between a and b, for each sample of shape
    (batch, ...) whose length float32 can square. If t is a map, w is the angle within the region that has a share,
    and the result is `a` outside it. Without an angle (parallel, opposite or zero vectors) it is the straight line.
    """
    if isinstance(t, float | int):
        if t == 0:
            return a
        if t == 1:
            return b.to(a)
    wide = torch.promote_types(a.dtype, torch.float32)
    start, end, region = a.to(wide), b.to(a.device, wide), None
    if isinstance(t, Tensor):
        t = t.to(a.device, wide)
        region = t > 0
    tiny = torch.finfo(wide).tiny
    norm_a, norm_b = norm(start, region), norm(end, region)
    unit_a = start / norm_a.clamp_min(tiny)
    # half the sum of the unit vectors has the length cos(w / 2), which is accurate at wide angles; at small ones the
    # straight line is as good
    half_cos = (norm(torch.addcdiv(unit_a, end, norm_b.clamp_min(tiny)), region) / 2).clamp_max(1)
    half_sin = (1 - half_cos * half_cos).sqrt()
    straight = (half_sin < 1e-3) | (half_cos < 1e-5) | (torch.minimum(norm_a, norm_b) == 0)
    angle = 2 * torch.atan2(half_sin, half_cos)
    # with s = sin(t w) / sin(w), b's factor, a's factor is (1 - s) + cos((1/2 - t) w) / cos(w / 2) - 1: a point on the
    # straight line from a to b, and the rest of a
    share = torch.where(straight, t, (t * angle).sin() / angle.sin())
    longer = torch.where(straight, 0.0, ((0.5 - t) * angle).cos() / (0.5 * angle).cos() - 1)
    mixed = torch.addcmul(torch.lerp(start, end, share), longer, start)
    return (mixed if region is None else torch.where(region, mixed, start)).to(a.dtype)


MIXES: dict[str, Mix] = {"slerp": slerp}


def relative(m: Tensor, y: Tensor, mu: Tensor, eta: float) -> Tensor:
    """Return m - eta (m - mu), a share of the way back to the model's posterior mean, eta in [0, 1]."""
    return torch.lerp(m, mu, eta)


def paper(m: Tensor, y: Tensor, mu: Tensor, eta: float) -> Tensor:
    """Return m - s (m - mu) / |m - mu| with s = eta sqrt(n / 16384), n numbers in a latent: the paper's Proposition 1.

    For latents of variance 1; it can step past the peak.
    """
    away = m - mu
    length = norm(away).clamp_min(torch.finfo(away.dtype).tiny)
    return m - eta * (m[0].numel() / PAPER_LATENT_SIZE) ** 0.5 * away / length


def norm_kept(m: Tensor, y: Tensor, mu: Tensor, eta: float) -> Tensor:
    """Scale the relative correction to the length of m: the mean alone has too little noise for the next level."""
    pulled = relative(m, y, mu, eta)
    return pulled * (norm(m) / norm(pulled).clamp_min(torch.finfo(pulled.dtype).tiny))


def own_step(m: Tensor, y: Tensor, mu: Tensor, eta: float) -> Tensor:
    """Return m - eta (m - y), a share of the way back to the model's own new latent at the next noise level."""
    return torch.lerp(m, y, eta)


Correction = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""A rule that takes m, the model's own new latent y, its posterior mean mu, and eta."""
CORRECTIONS: dict[str, Correction] = {"relative": relative, "paper": paper, "norm": norm_kept, "own": own_step}


def correct(m: Tensor, y: Tensor, mu: Tensor, eta: float, rule: str = "relative") -> Tensor:
    """Pull the aggregated latent `m` back towards one model's own new latent or mean, by one of CORRECTIONS.

    m, y, mu: (batch, ...).
    """
    if rule not in CORRECTIONS:
        raise ValueError(f'correction must be one of {", ".join(CORRECTIONS)}, not "{rule}"')
    if eta == 0:
        return m
    wide = torch.promote_types(m.dtype, torch.float32)
    latent, peak = y.to(m.device, wide), mu.to(m.device, wide)
    return CORRECTIONS[rule](m.to(wide), latent, peak, eta).to(m.dtype)


def aggregate(
    latents: Sequence[Tensor],
    means: Sequence[Tensor],
    gammas: Sequence[Share],
    etas: Sequence[float],
    rule: str = "relative",
    scale: float = 1.0,
    mix: Mix = slerp,
) -> list[Tensor]:
    """Aggregate all models once: slerp the co-models into the main one in slot order, then correct each model.

    latents, means: y_i and mu_i of the main model (first) and of each co-model, shape (batch, ...).
    gammas: one share for each co-model.
    etas: one for each model.
    scale: the latents' standard deviation (`Level.scale`; only the paper's rule needs it).
    mix: used instead of slerp, for comparisons.

    Returns the new latent of each model, in the same order. The main model's is its own if every share is 0.
    """
    m = latents[0]
    for y, gamma in zip(latents[1:], gammas):
        m = mix(m, y, gamma)
    if rule == "paper":
        etas = [eta * scale for eta in etas]
    new = [correct(m, y, mu, eta, rule) for y, mu, eta in zip(latents, means, etas)]
    if etas[0] and not any(gamma > 0 for gamma in gammas if not isinstance(gamma, Tensor)):
        spoken = [(gamma > 0).to(m.device) for gamma in gammas if isinstance(gamma, Tensor)]
        new[0] = torch.where(functools.reduce(torch.logical_or, spoken), new[0], latents[0]) if spoken else latents[0]
    return new


def norm(x: Tensor, region: Tensor | None = None) -> Tensor:
    """Return each sample's length, (batch, 1, ...), measured only within the region if there is one."""
    within = x if region is None else x * region
    return torch.linalg.vector_norm(within, dim=[*range(1, x.ndim)], keepdim=True)
