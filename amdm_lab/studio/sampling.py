"""k-diffusion's samplers by name, with the noise levels and the random numbers that the WebUI gives them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lib_amdm.errors import AmdmError

from .k_diffusion_parts import sampling as k_sampling
from .model import StandaloneModel

PREFIX = "sample_"
SCHEDULES = ("automatic", "karras", "exponential")
_AUTOMATIC = {
    "dpm_2": "karras",
    "dpm_2_ancestral": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_3m_sde": "exponential",
    "dpmpp_sde": "karras",
}
"""The schedule that the WebUI's "Automatic" means, where it is not the model's own."""
_SKIPS_NEXT_TO_LAST = ("dpm_2", "dpm_2_ancestral", "dpmpp_3m_sde")
"""The WebUI plans one level more for these, and then leaves out the last before 0."""


class Interrupted(Exception):  # noqa: N818 - it is not an error
    """The picture is no longer wanted."""


def sampler_names() -> list[str]:
    """Return the names of k-diffusion's samplers: "euler", "dpmpp_2m"."""
    return sorted(name.removeprefix(PREFIX) for name in vars(k_sampling) if name.startswith(PREFIX))


def find_sampler(name: str) -> Callable[..., Any]:
    """Return k-diffusion's function for a sampler's name; AmdmError lists the names if there is none."""
    if name not in sampler_names():
        raise AmdmError(f'AMDM: "{name}" is not a sampler of k-diffusion; choose one of {", ".join(sampler_names())}.')
    return getattr(k_sampling, PREFIX + name)


def noise_levels(model: StandaloneModel, sampler: str, schedule: str, steps: int) -> Tensor:
    """Return `steps` sigmas from the highest down, and 0, as the WebUI plans them for this sampler and schedule."""
    if schedule not in SCHEDULES:
        raise AmdmError(f'AMDM: "{schedule}" is not a schedule; choose one of {", ".join(SCHEDULES)}.')
    skips = sampler in _SKIPS_NEXT_TO_LAST
    if model.is_flow:
        _refuse_on_flow(model.title, sampler, schedule)
        chosen = None
    else:
        chosen = _AUTOMATIC.get(sampler) if schedule == "automatic" else schedule
    if chosen is None:
        sigmas = model.sigmas(steps + skips)
    else:
        spread = getattr(k_sampling, f"get_sigmas_{chosen}")
        lowest, highest = model.wrap.sigmas[0].item(), model.wrap.sigmas[-1].item()
        sigmas = spread(steps + skips, lowest, highest, device=model.wrap.sigmas.device)
    return torch.cat([sigmas[:-2], sigmas[-1:]]) if skips else sigmas


def _refuse_on_flow(title: str, sampler: str, schedule: str) -> None:
    """Raise AmdmError for a sampler or a schedule that does not fit a flow model's noise levels."""
    if _adds_noise(sampler):
        others = ", ".join(name for name in sampler_names() if not _adds_noise(name))
        raise AmdmError(
            f'AMDM: "{sampler}" adds noise as models that predict noise want it, and "{title}" is a flow model; '
            f"choose one of {others}."
        )
    if schedule != "automatic":
        raise AmdmError(
            f'AMDM: the schedule "{schedule}" is for models that predict noise, and "{title}" is a flow model; '
            'choose "automatic".'
        )


def _adds_noise(sampler: str) -> bool:
    """Return True for an ancestral or stochastic sampler: it assumes latents x0 + sigma * noise."""
    return "noise_sampler" in inspect.signature(find_sampler(sampler)).parameters


def progress(ratios: Sequence[float]) -> Callable[[float], float]:
    """Return a function for the share of the steps that are done at a noise-to-signal ratio, from 0 to below 1.

    ratios: those of the sampler's levels. A second evaluation of a step at the next step's level counts as that step's.
    """
    levels = ratios[:-1]

    def done(ratio: float) -> float:
        # a level must not count as passed for its last binary digit
        return sum(level > ratio * (1 + 1e-4) for level in levels) / len(levels)

    return done


def noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return Gaussian noise (images, *shape), each image's from its seed alone, as the WebUI draws it on a CPU."""
    return ImageNoise(seeds, shape).draw()


class ImageNoise:
    """A stream of random numbers for each image, independent of its place in a batch.

    The first draw is a picture's first noise. Ancestral samplers add the next ones.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int]) -> None:
        self.seeds = [int(seed) for seed in seeds]
        self.shape = tuple(shape)
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in self.seeds]

    def draw(self) -> Tensor:
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])

    def sampler(self, func: Callable[..., Any], x: Tensor, sigmas: Tensor) -> Callable[..., Tensor]:
        """Return the noise_sampler for `func`: Brownian paths if it would make its own, or this stream."""
        name = "BrownianTreeNoiseSampler"
        if name in inspect.unwrap(func).__code__.co_names:
            paths = getattr(k_sampling, name)
            return paths(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=self.seeds)
        return lambda sigma, sigma_next: self.draw().to(x)


def sample(
    func: Callable[..., Any],
    denoiser: nn.Module,
    stream: ImageNoise,
    sigmas: Tensor,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Tensor:
    """Run `func`, one of k-diffusion's samplers or `amdm` around one, from the stream's first noise.

    denoiser: the model.
    stream: the random numbers; the process's own generator stays as it is.
    sigmas: the noise levels.
    callback: called in each step.
    """
    wanted = inspect.signature(func).parameters
    x = stream.draw().to(sigmas) * sigmas[0]
    # fully ancestral, as the WebUI has it: k-diffusion's own DPM fast and DPM adaptive are not
    known = {"sigmas": sigmas, "n": len(sigmas) - 1, "eta": 1.0, **_range(denoiser)}
    if "noise_sampler" in wanted:
        known["noise_sampler"] = stream.sampler(func, x, sigmas)
    arguments = {name: value for name, value in known.items() if name in wanted}
    # some samplers draw numbers that they do not use
    with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []), torch.no_grad():
        return func(denoiser, x, **arguments, callback=callback, disable=True)


def _range(denoiser: Any) -> dict[str, float]:
    """Return the ends for samplers that plan their own levels; they refuse 0."""
    levels = denoiser.model.wrap.sigmas
    return {"sigma_min": levels[0].item(), "sigma_max": levels[-1].item()}
