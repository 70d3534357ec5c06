"""Ways to draw with several checkpoints that no settings of AMDM describe: averages, merges, sums, a refiner.

Each is a function of (studio, scenes, seeds) that returns latents, and each model gets the scene in its own dialect.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.core.co_model import private_seeds

from ..studio.host import GuidedDenoiser, StandaloneModel
from ..studio.sampling import ImageNoise, sample
from ..world.scenes import Scene
from .projected import Projected
from .reference_rule import sample_released
from .rows import Sampled, Studio, captions, unguided

PAIR = ("shapes", "colours")
EVERYTHING = "all"


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


class Together(nn.Module):
    """Several denoisers of one latent as one denoiser, on the first one's noise levels."""

    def __init__(self, denoisers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.denoisers = nn.ModuleList(denoisers)

    @property
    def model(self) -> StandaloneModel:
        return cast(GuidedDenoiser, self.denoisers[0]).model


class Averaged(Together):
    """The weighted mean of guided predictions."""

    def __init__(self, denoisers: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__(denoisers)
        self.weights = list(weights)

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the mean denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        return _sum([weight * denoiser(x, sigma) for weight, denoiser in zip(self.weights, self.denoisers)])


def average(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    names: Sequence[str] = PAIR,
    weights: Sequence[float] | None = None,
    steps: int | None = None,
) -> Sampled:
    """Draw with the mean of the models' predictions on one latent, in all steps or in the first `steps`."""
    denoisers = [studio.denoiser(name, scenes) for name in names]
    together = Averaged(denoisers, weights or [1 / len(names)] * len(names))
    if steps is None:
        latents = studio.sample(studio.func, together, seeds)
    else:
        latents = studio.sample(begun_with(together, studio.func, steps), denoisers[0], seeds)
    co_evaluations = sum(other.evaluations for other in denoisers[1:])
    return Sampled(latents, denoisers[0].evaluations, co_evaluations, names[0])


class Summed(Together):
    """The first model's guided prediction and the whole guidance of the others: u_0 + sum of w_i (c_i - u_i)."""

    def __init__(self, denoisers: Sequence[nn.Module], without_prompts: Sequence[nn.Module]) -> None:
        super().__init__(denoisers)
        self.without_prompts = nn.ModuleList(without_prompts)

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the combined denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        guided, plain = (
            [denoiser(x, sigma) for denoiser in denoisers] for denoisers in (self.denoisers, self.without_prompts)
        )
        return self.together(guided, plain)

    def together(self, guided: Sequence[Tensor], plain: Sequence[Tensor]) -> Tensor:
        """Combine the models' guided and unguided predictions, each (batch, ...)."""
        return guided[0] + _sum([one - other for one, other in zip(guided[1:], plain[1:])])


class Picked(Summed):
    """At each place of the latent the prediction of the model with the strongest guidance around there."""

    def together(self, guided: Sequence[Tensor], plain: Sequence[Tensor]) -> Tensor:
        strengths = [(one - other).abs().mean(1, keepdim=True) for one, other in zip(guided, plain)]
        around = torch.stack([F.avg_pool2d(strength, 3, 1, 1, count_include_pad=False) for strength in strengths])
        chosen = around.argmax(0)
        return _sum([torch.where(chosen == n, one, torch.zeros_like(one)) for n, one in enumerate(guided)])


def guidance(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], kind: type[Summed]) -> Sampled:
    """Draw with both models' guidance combined on one latent in all steps.

    A model's prediction without a prompt costs one evaluation more, which is not counted.
    """
    denoisers = [studio.denoiser(name, scenes) for name in PAIR]
    plain = [unguided(denoiser.model, len(scenes)) for denoiser in denoisers]
    latents = studio.sample(studio.func, kind(denoisers, plain), seeds)
    return Sampled(latents, denoisers[0].evaluations, denoisers[1].evaluations)


def begun_with(first: nn.Module, func: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """Return `func` with another denoiser, `first`, in its first steps."""

    @functools.wraps(func)
    def begun(model: nn.Module, x: Tensor, sigmas: Tensor, **more: Any) -> Tensor:
        x = func(first, x, sigmas=sigmas[: steps + 1], **more)
        return func(model, x, sigmas=sigmas[steps:], **more)

    return begun


def merge(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    names: Sequence[str] = PAIR,
    prompt: str = "full",
) -> Sampled:
    """Draw with the mean of the checkpoints' weights; prompt: "full", or "and" for both dialects at once."""
    prompts = [joined(names, scene) for scene in scenes] if prompt == "and" else captions(EVERYTHING, scenes)
    denoiser = studio.prompted(merged([studio.model(name) for name in names]), prompts)
    return Sampled(studio.sample(studio.func, denoiser, seeds), denoiser.evaluations, checkpoint=names[0])


@torch.no_grad()
def merged(models: Sequence[StandaloneModel]) -> StandaloneModel:
    """Make a model with the mean of the models' UNet weights, and the first one's texts."""
    first = models[0]
    # a copy of the tokenizer would take longer than the picture
    new = copy.deepcopy(first, {id(part): part for part in (first.tokenizer, first.text_encoder, first.texts)})
    states = [model.unet.state_dict() for model in models]
    new.unet.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    return new


def joined(names: Sequence[str], scene: Scene) -> str:
    """Describe the scene in the dialects of several checkpoints at once, joined by AND."""
    return " AND ".join(caption for name in names for caption in captions(name, [scene]))


def released(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], **rule: Any) -> Sampled:
    """Draw by the rule of the paper's released code, each model from its own noise; it has DDIM's steps alone."""
    denoisers = [studio.denoiser(name, scenes) for name in PAIR]
    sigmas = studio.sigmas()
    shape = studio.latent(denoisers[0].model)
    latents = [ImageNoise(of_model, shape).draw() * sigmas[0] for of_model in (seeds, private_seeds(seeds, 1))]
    drawn = sample_released(denoisers, latents, sigmas, **rule)
    return Sampled(drawn, denoisers[0].evaluations, denoisers[1].evaluations)


class Handed(nn.Module):
    """One checkpoint down to a noise level, and another from there on, as a denoiser: the WebUI's refiner."""

    def __init__(self, first: GuidedDenoiser | Projected, then: GuidedDenoiser | Projected, level: float) -> None:
        super().__init__()
        self.first, self.then, self.level = first, then, level

    @property
    def model(self) -> StandaloneModel:
        return self.first.model

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        denoiser = self.first if sigma[0].item() > self.level else self.then
        return denoiser(x, sigma)


def handed(
    studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], first: str, then: str, share: float
) -> Sampled:
    """Draw with one checkpoint in a share of the steps, and with another in the rest."""
    begins, ends = (studio.denoiser(name, scenes) for name in (first, then))
    sigmas = studio.sigmas(first)
    switch = round(share * studio.steps)
    # between the last step of the first and the first of the other
    level = (sigmas[switch - 1].item() + sigmas[switch].item()) / 2
    latents = studio.sample(studio.func, Handed(begins, ends, level), seeds)
    return Sampled(latents, begins.evaluations, ends.evaluations, first)


def redrawn(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    first: str,
    then: str,
    share: float,
    is_finished: bool,
) -> Sampled:
    """Draw with one checkpoint, and go on with another from its picture, whatever their latents are.

    share: of the steps, which the first has for itself; the other gets the rest, from new noise on the picture.
    is_finished: the picture is the first one's finished one (img2img); otherwise its last prediction (a refiner).
    """
    begins, ends = (studio.denoiser(name, scenes) for name in (first, then))
    at, predictions = round(share * studio.steps), list[Tensor]()
    sigmas = studio.sigmas(first)
    stream = ImageNoise(seeds, studio.latent(begins.model))
    watch = {"callback": lambda state: predictions.append(state["denoised"])}
    latents = sample(studio.func, begins, stream, sigmas if is_finished else sigmas[: at + 1], **watch)
    coders = [studio.host.autoencoder(name) for name in (first, then)]
    clean = coders[1].encode(coders[0].decode(latents if is_finished else predictions[-1], clamp=False))
    rest = studio.sigmas(then)[at:]
    level = ends.model.level(rest[0].item())
    noise = ImageNoise(private_seeds(seeds, 1), clean.shape[1:]).draw()
    with torch.no_grad():
        drawn = studio.func(ends, level.alpha * clean + level.sigma * noise, rest, disable=True)
    return Sampled(drawn, begins.evaluations, ends.evaluations, then)
