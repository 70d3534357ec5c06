"""What a mixed step takes beside the models, against the shortest loop: `python -m tests.overhead`.

The denoisers are two operations each, so that hardly anything but the sampler's and AMDM's own arithmetic is timed. All
ways take turns in one process, and the fastest turn of each counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lib_amdm.hosts.standalone.k_diffusion_parts import sampling
from lib_amdm.sampling import CoRun, amdm

STEPS, TURNS = 8, 15
GAMMA, ETA = 0.4, 0.2
Denoise = Callable[..., Tensor]


def denoiser(seed: int) -> Denoise:
    target = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(seed))
    return lambda x, sigma, **_: x * 0.3 + target[..., : x.shape[2], : x.shape[3]]


def shortest(main: Denoise, others: Sequence[Denoise], x: Tensor, sigmas: Tensor) -> Tensor:
    """Algorithm 2 for Euler in as few operations as it can be written in, without a case that needs care."""
    latents, levels = [x] * (1 + len(others)), sigmas.tolist()
    for sigma, sigma_next in pairwise(levels):
        ratio, level = sigma_next / sigma, x.new_full((len(x),), sigma)
        predictions = [denoise(latent, level) for denoise, latent in zip((main, *others), latents)]
        noises = [latent - denoised for latent, denoised in zip(latents, predictions)]
        mixed, *steps = (denoised + ratio * noise for denoised, noise in zip(predictions, noises))
        for step in steps:
            a, b = mixed.flatten(1), step.flatten(1)
            lengths = a.norm(dim=1, keepdim=True) * b.norm(dim=1, keepdim=True)
            angle = ((a * b).sum(1, keepdim=True) / lengths).acos()
            shares = ((1 - GAMMA) * angle).sin() / angle.sin(), (GAMMA * angle).sin() / angle.sin()
            mixed = (shares[0] * a + shares[1] * b).view_as(x)
        means = (denoised + ratio**2 * noise for denoised, noise in zip(predictions, noises))
        latents = [mixed - ETA * (mixed - mean) for mean in means]
    return latents[0]


def row(size: int, batch: int, count: int) -> str:
    sigmas = sampling.get_sigmas_karras(STEPS, 0.03, 14.6)
    x = torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(0)) * sigmas[0]
    main, others = denoiser(0), [denoiser(1 + n) for n in range(count)]
    mixed = amdm(sampling.sample_euler, [CoRun(other, GAMMA, ETA) for other in others], STEPS, ETA)
    ways: dict[str, Callable[[], Tensor]] = {
        "AMDM": lambda: mixed(main, x, sigmas, disable=True),
        "shortest": lambda: shortest(main, others, x, sigmas),
        "main alone": lambda: sampling.sample_euler(main, x, sigmas, disable=True),
    }
    off = (ways["AMDM"]() - ways["shortest"]()).abs().max().item()
    times: dict[str, float] = dict.fromkeys(ways, float("inf"))
    for _ in range(TURNS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name] = min(times[name], (time.perf_counter() - began) / STEPS * 1e6)
    told = ", ".join(f"{name} {taken:.0f}" for name, taken in times.items())
    ratio = times["AMDM"] / times["shortest"]
    return f"{size}x{size}, batch {batch}, {count} co-models: microseconds a step {told}; {ratio:.2f}; {off:.0e} apart"


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        for size, batches in ((64, (1, 4)), (128, (1, 8))):
            for batch in batches:
                for count in (1, 3):
                    print(row(size, batch, count), flush=True)
