"""The time of a mixed step beside its models, against the shortest loop: `python -m tests.overhead [--device cuda]`.

Of arithmetic alone: the denoisers are two operations each, so that hardly anything but the sampler's and AMDM's own
arithmetic is timed. With `--unet sd15` or `sdxl` of whole pictures: UNets of the published sizes with random weights,
and the time of a picture against that of its evaluations. All ways take turns in one process, and the fastest turn of
each counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from amdm_lab.gpu.random_unets import LATENT, UNETS, Guided
from amdm_lab.studio.k_diffusion_parts import sampling
from lib_amdm import CoRun, amdm

STEPS, TURNS = 8, 15
GAMMA, ETA = 0.4, 0.2
PICTURE_STEPS, PICTURE_TURNS = 20, 5
Denoise = Callable[..., Tensor]


def denoiser(seed: int, device: str) -> Denoise:
    target = torch.randn(1, 4, 128, 128, generator=torch.Generator().manual_seed(seed)).to(device)
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


def fastest(ways: dict[str, Callable[[], Tensor]], turns: int, device: str) -> dict[str, float]:
    """Seconds of each way's fastest turn."""
    times: dict[str, float] = dict.fromkeys(ways, float("inf"))
    for _ in range(turns):
        for name, way in ways.items():
            _finish(device)
            began = time.perf_counter()
            way()
            _finish(device)
            times[name] = min(times[name], time.perf_counter() - began)
    return times


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def arithmetic(size: int, batch: int, count: int, device: str) -> str:
    """A line about a mixed step of `count` co-models in a latent of this size."""
    sigmas = sampling.get_sigmas_karras(STEPS, 0.03, 14.6, device=device)
    x = torch.randn(batch, 4, size, size, generator=torch.Generator().manual_seed(0)).to(device) * sigmas[0]
    main, others = denoiser(0, device), [denoiser(1 + n, device) for n in range(count)]
    mixed = amdm(sampling.sample_euler, [CoRun(other, GAMMA, ETA) for other in others], steps=STEPS, eta=ETA)
    ways: dict[str, Callable[[], Tensor]] = {
        "AMDM": lambda: mixed(main, x, sigmas, disable=True),
        "shortest": lambda: shortest(main, others, x, sigmas),
        "main alone": lambda: sampling.sample_euler(main, x, sigmas, disable=True),
    }
    off = (ways["AMDM"]() - ways["shortest"]()).abs().max().item()
    times = {name: seconds / STEPS * 1e6 for name, seconds in fastest(ways, TURNS, device).items()}
    each = ", ".join(f"{name} {taken:.0f}" for name, taken in times.items())
    ratio = times["AMDM"] / times["shortest"]
    return f"{size}x{size}, batch {batch}, {count} co-models: microseconds a step {each}; {ratio:.2f}; {off:.0e} apart"


def pictures(kind: str, device: str) -> list[str]:
    """Lines about whole pictures: the main model alone, with one co-model, and as many evaluations of the main one."""
    place, dtype = torch.device(device), torch.float16 if device == "cuda" else torch.float32
    main, other = (Guided(kind, seed, place, dtype) for seed in (0, 1))
    size = LATENT[kind]
    sigmas = main.wrap.get_sigmas(PICTURE_STEPS)
    x = torch.randn(1, 4, size, size, device=device) * sigmas[0]

    def evaluated(counts: tuple[int, int], level: Tensor) -> Tensor:
        return [model(x, level) for model, count in zip((main, other), counts) for _ in range(count)][-1]

    lines = []
    for sampler in (sampling.sample_euler, sampling.sample_dpmpp_2m):
        for evaluations in (4, 0):
            mixed = amdm(sampler, [CoRun(other, 0.5, on_nan=lambda: None)], evaluations=evaluations)
            main.evaluations = other.evaluations = 0
            mixed(main, x, sigmas, disable=True)
            counts, level = (main.evaluations, other.evaluations), sigmas[:1]
            ways: dict[str, Callable[[], Tensor]] = {
                "AMDM": partial(mixed, main, x, sigmas, disable=True),
                "main alone": partial(sampler, main, x, sigmas, disable=True),
                "evaluations": partial(evaluated, counts, level),
            }
            times = fastest(ways, PICTURE_TURNS, device)
            beyond = times["AMDM"] / times["evaluations"] - 1
            each = ", ".join(f"{name} {seconds:.3f}" for name, seconds in times.items())
            what = f"{kind}, {sampler.__name__}, {counts[0]} + {counts[1]} evaluations"
            lines.append(f"{what}: seconds {each}; {100 * beyond:+.1f} % beyond its evaluations")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.overhead", description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--unet", choices=UNETS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        if given.device == "cuda":
            print(torch.cuda.get_device_name(), flush=True)
        if given.unet:
            print(*pictures(given.unet, given.device), sep="\n", flush=True)
            return
        for size, batches in ((64, (1, 4)), (128, (1, 8))):
            for batch in batches:
                for count in (1, 3):
                    print(arithmetic(size, batch, count, given.device), flush=True)


if __name__ == "__main__":
    main()
