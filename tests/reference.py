"""AMDM once more, slowly: variance-preserving latents, float64, one sample at a time, as the formulas have it.

It shares nothing with the package but the definition. Latents are z = x / sqrt(1 + sigma^2) = sqrt(a) x0 + sqrt(1 - a)
noise with a = 1 / (1 + sigma^2); the main sampler is Euler's, which on z is DDIM with eta 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


def amdm_euler(
    models: Sequence[Denoise],
    first: Sequence[Tensor],
    sigmas: Sequence[float],
    steps: int,
    gammas: Sequence[float],
    etas: Sequence[float],
    start: int = 0,
    correction: str = "relative",
) -> Tensor:
    """The main model's final latent. models: main first. first: each one's x at sigmas[0]; etas: one for each."""
    samples = []
    for n in range(len(first[0])):
        z = [vp(x[n : n + 1], sigmas[0]) for x in first]
        for k in range(len(sigmas) - 1):
            a, a_next = alpha(sigmas[k]), alpha(sigmas[k + 1])
            if k >= steps:
                z[0] = ddim(denoised(models[0], z[0], sigmas[k]), z[0], a, a_next)
                continue
            predictions = [denoised(model, own, sigmas[k]) for model, own in zip(models, z)]
            ys = [ddim(x0, own, a, a_next) for x0, own in zip(predictions, z)]
            if k < start:
                z = ys
                continue
            means = [ddpm_mean(x0, own, a, a_next) for x0, own in zip(predictions, z)]
            mixed = ys[0]
            for y, gamma in zip(ys[1:], gammas):
                mixed = slerp(mixed, y, gamma)
            z = [corrected(mixed, mean, eta, correction) for mean, eta in zip(means, etas)]
        samples.append(z[0] * math.sqrt(1 + sigmas[-1] ** 2))
    return torch.cat(samples)


def alpha(sigma: float) -> float:
    return 1 / (1 + sigma**2)


def vp(x: Tensor, sigma: float) -> Tensor:
    return x.double() / math.sqrt(1 + sigma**2)


def denoised(model: Denoise, z: Tensor, sigma: float) -> Tensor:
    return model(z * math.sqrt(1 + sigma**2), torch.tensor([sigma], dtype=torch.float64))


def ddim(x0: Tensor, z: Tensor, a: float, a_next: float) -> Tensor:
    """Equation 12 of the DDIM paper without noise."""
    eps = (z - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * eps


def ddpm_mean(x0: Tensor, z: Tensor, a: float, a_next: float) -> Tensor:
    """The mean of q(z_next | z, x0) for a stride from a to a_next, by Bayes' rule for two Gaussians.

    prior: z_next ~ N(sqrt(a_next) x0, 1 - a_next); likelihood: z ~ N(r z_next, 1 - r^2) with r = sqrt(a / a_next).
    """
    r = math.sqrt(a / a_next)
    prior, likelihood = 1 - a_next, 1 - r**2
    if prior == 0:
        return math.sqrt(a_next) * x0
    precision = 1 / prior + r**2 / likelihood
    return (math.sqrt(a_next) * x0 / prior + r * z / likelihood) / precision


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Equation 9 of the AMDM paper, by the arc cosine."""
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if math.sin(angle) < 1e-6:
        return (1 - t) * a + t * b
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b


def corrected(m: Tensor, mean: Tensor, eta: float, correction: str) -> Tensor:
    away = m - mean
    if correction == "relative":
        return m - eta * away
    length = float(away.norm())
    return m if length == 0 else m - eta * math.sqrt(m.numel() / 16384) * away / length
