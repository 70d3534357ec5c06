"""Ways to draw one picture with what several checkpoints know: AMDM, and what it is compared with.

Every method is a function of (studio, scenes, seeds) that gives latents. All of them draw from the same first noise,
and each model gets the scene in the dialect it was taught.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.comodels.adapter_use import AtWork
from lib_amdm.comodels.mixing import SlotRun, co_run, mixed
from lib_amdm.core.aggregation import Mix, slerp
from lib_amdm.core.arguments import Pass
from lib_amdm.core.sampling import private_seeds
from lib_amdm.settings import AUTO, CoModel, Settings

from ..bundled import DIALECT_OF, FLOW_OF, MADE_OF
from ..studio.host import Denoiser, Standalone, StandaloneModel
from ..studio.sampling import ImageNoise, find_sampler, noise_levels, sample
from ..training.networks import LATENT
from ..world.captions import caption
from ..world.scenes import Scene
from .projected import Projected
from .reference_rule import sample_released

MAIN = "shapes"
PAIR = ("shapes", "colours")
THREE = ("shapes", "colours", "backgrounds")
EVERYTHING = "all"


def mixing(*co_models: str, gamma: float, co_eta: float, noise: str = "shared", **further: Any) -> Settings:
    """Make settings that mix in these checkpoints, with one gamma, eta and noise; `further`: Settings' attributes."""
    slots = tuple(CoModel(checkpoint=name, gamma=gamma, eta=co_eta, noise=noise) for name in co_models)
    return Settings(enabled=True, co_models=slots, **further)


DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint="colours"),))
"""The settings of a user who changes nothing."""
BEST = mixing("colours", steps=AUTO, evaluations=4, gamma=0.5, co_eta=0.0)
"""The best that was found for two models with at most four evaluations of the second."""
FIRST_DEFAULTS = mixing("colours", steps=3, evaluations=0, eta=0.2, gamma=0.5, co_eta=0.2)
"""The defaults of the time when every one of the K steps evaluated the co-model."""
UNGUIDED = mixing("colours", steps=14, evaluations=3, eta=0.3, gamma=0.7, co_eta=0.3)
"""The best found for CFG 1."""
_BACKGROUNDS = CoModel(checkpoint="backgrounds", gamma=0.5)
BEST_THREE = replace(BEST, evaluations=5, co_models=(replace(BEST.co_models[0], gamma=0.7), _BACKGROUNDS))
"""The best that was found with a third model."""
EARLY = 14
"""Steps of 20 in which the methods without a rule of their own put models together."""
PULL = 0.2
"""eta of the rows that compare corrections."""


@dataclass(frozen=True)
class Sampled:
    """The result of a method before decoding.

    latents: (pictures, *LATENT). evaluations: of guided predictions of a picture, by the main model (or by the only
    one); co_evaluations: by all the others.
    """

    latents: Tensor
    evaluations: int
    co_evaluations: int = 0


@dataclass(frozen=True)
class Studio:
    """The host, and how all the methods sample on it.

    scale: a picture's side in that of the bundled checkpoints'. untold: the checkpoints whose prompt is empty.
    projected: those whose guidance is.
    """

    host: Standalone
    steps: int = 20
    cfg_scale: float = 5.0
    sampler: str = "euler"
    scale: int = 1
    untold: tuple[str, ...] = ()
    projected: tuple[str, ...] = ()

    @property
    def latent(self) -> tuple[int, int, int]:
        channels, height, width = LATENT
        return channels, height * self.scale, width * self.scale

    def model(self, name: str) -> StandaloneModel:
        return cast(StandaloneModel, self.host.load(name).model)

    def denoiser(self, name: str, scenes: Sequence[Scene]) -> Denoiser | Projected:
        """Return the checkpoint as a denoiser of the scenes, in its own dialect."""
        model = self.model(name)
        prompts = [""] * len(scenes) if name in self.untold else captions(name, scenes)
        denoiser = self.prompted(model, prompts)
        return Projected(denoiser, unguided(model, len(scenes))) if name in self.projected else denoiser

    def prompted(self, model: StandaloneModel, prompts: Sequence[str], adapter: AtWork | None = None) -> Denoiser:
        return model.denoiser(prompts, [""] * len(prompts), self.cfg_scale, adapter=adapter)

    def sigmas(self, name: str = MAIN) -> Tensor:
        return noise_levels(self.model(name), self.sampler, "automatic", self.steps)

    @property
    def func(self) -> Callable[..., Any]:
        """The plain sampler."""
        return find_sampler(self.sampler)

    def sample(self, func: Callable[..., Any], denoiser: nn.Module, seeds: Sequence[int]) -> Tensor:
        """Draw with `func` from the noise levels of the denoiser's own model."""
        sigmas = noise_levels(cast(StandaloneModel, denoiser.model), self.sampler, "automatic", self.steps)
        return sample(func, denoiser, ImageNoise(seeds, self.latent), sigmas)

    def pictures(self, latents: Tensor) -> Tensor:
        """Decode latents in the small size, (pictures, 3, SIZE, SIZE) from -1 to 1; the checkpoints share one VAE."""
        any_of_them = self.host.checkpoint_titles()[0]
        return F.avg_pool2d(self.host.autoencoder(any_of_them).decode(latents) * 2 - 1, self.scale)


def captions(name: str, scenes: Sequence[Scene]) -> list[str]:
    """Describe the scenes in the dialect that a checkpoint was taught."""
    return [caption(scene, DIALECT_OF[MADE_OF.get(name, name)]) for scene in scenes]


def alone(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], name: str) -> Sampled:
    """Draw with one checkpoint, in its own dialect."""
    denoiser = studio.denoiser(name, scenes)
    return Sampled(studio.sample(studio.func, denoiser, seeds), denoiser.evaluations)


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


def unguided(model: StandaloneModel, pictures: int) -> Denoiser:
    """Return the model's prediction without a prompt, as a denoiser."""
    return model.denoiser([""] * pictures, [""] * pictures, 1.0)


class Averaged(nn.Module):
    """The weighted mean of several guided predictions of one latent, as a denoiser."""

    def __init__(self, denoisers: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.denoisers, self.weights = nn.ModuleList(denoisers), list(weights)

    @property
    def model(self) -> StandaloneModel:
        return cast(Denoiser, self.denoisers[0]).model

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
    return Sampled(latents, denoisers[0].evaluations, sum(other.evaluations for other in denoisers[1:]))


class Summed(nn.Module):
    """The first model's guided prediction and the whole guidance of the others: u_0 + sum of w_i (c_i - u_i)."""

    def __init__(self, denoisers: Sequence[nn.Module], unguided: Sequence[nn.Module]) -> None:
        super().__init__()
        self.denoisers, self.unguided = nn.ModuleList(denoisers), nn.ModuleList(unguided)

    @property
    def model(self) -> StandaloneModel:
        return cast(Denoiser, self.denoisers[0]).model

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the combined denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        guided, plain = ([denoiser(x, sigma) for denoiser in each] for each in (self.denoisers, self.unguided))
        return self.together(guided, plain)

    def together(self, guided: Sequence[Tensor], plain: Sequence[Tensor]) -> Tensor:
        """Combine the models' guided and unguided predictions, each (batch, ...)."""
        return guided[0] + _sum([one - other for one, other in zip(guided[1:], plain[1:])])


class Picked(Summed):
    """At each place of the latent the prediction of the model whose guidance is strongest around there."""

    def together(self, guided: Sequence[Tensor], plain: Sequence[Tensor]) -> Tensor:
        strength = [(one - other).abs().mean(1, keepdim=True) for one, other in zip(guided, plain)]
        around = torch.stack([F.avg_pool2d(each, 3, 1, 1, count_include_pad=False) for each in strength])
        chosen = around.argmax(0)
        return _sum([torch.where(chosen == n, one, torch.zeros_like(one)) for n, one in enumerate(guided)])


def guidance(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], kind: type[Summed]) -> Sampled:
    """Draw with both models' guidance put together on one latent in all steps.

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
    prompts = joined(names, scenes) if prompt == "and" else captions(EVERYTHING, scenes)
    denoiser = studio.prompted(merged([studio.model(name) for name in names]), prompts)
    return Sampled(studio.sample(studio.func, denoiser, seeds), denoiser.evaluations)


@torch.no_grad()
def merged(models: Sequence[StandaloneModel]) -> StandaloneModel:
    """Make a model with the mean of the models' UNet weights, and the first one's texts."""
    first = models[0]
    # a copy of the tokenizer would take longer than the picture
    new = copy.deepcopy(first, {id(kept): kept for kept in (first.tokenizer, first.text_encoder, first.texts)})
    states = [model.unet.state_dict() for model in models]
    new.unet.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    return new


def prompt_and(
    studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], name: str, dialects: Sequence[str] = PAIR
) -> Sampled:
    """Draw with one checkpoint and the captions of the other's dialect too, joined by AND."""
    denoiser = studio.prompted(studio.model(name), joined(dialects, scenes))
    return Sampled(studio.sample(studio.func, denoiser, seeds), denoiser.evaluations)


def joined(names: Sequence[str], scenes: Sequence[Scene]) -> list[str]:
    """Describe the scenes in the dialects of several checkpoints at once, joined by AND."""
    return [" AND ".join(parts) for parts in zip(*(captions(name, scenes) for name in names))]


def aggregated(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    settings: Settings,
    main: str = MAIN,
    mix: Mix = slerp,
) -> Sampled:
    """Draw with AMDM, each co-model with captions in its own dialect."""
    denoiser = studio.denoiser(main, scenes)
    others = [studio.denoiser(slot.checkpoint, scenes) for _, slot in settings.active]
    co_runs = [
        co_run(
            number,
            slot,
            SlotRun(other, other.model.highest, form=other.model.form),
            seeds,
            studio.latent[1:],
            denoiser.model.highest,
        )
        for other, (number, slot) in zip(others, settings.active)
    ]
    func = mixed(studio.func, settings, co_runs, Pass(level_of=denoiser.model.level), mix)
    latents = studio.sample(func, denoiser, seeds)
    return Sampled(latents, denoiser.evaluations, sum(other.evaluations for other in others))


def released(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], **rule: Any) -> Sampled:
    """Draw by the rule of the paper's released code, each model from noise of its own; it knows DDIM's steps alone."""
    denoisers = [studio.denoiser(name, scenes) for name in PAIR]
    sigmas = studio.sigmas()
    latents = [ImageNoise(own, studio.latent).draw() * sigmas[0] for own in (seeds, private_seeds(seeds, 1))]
    drawn = sample_released(denoisers, latents, sigmas, **rule)
    return Sampled(drawn, denoisers[0].evaluations, denoisers[1].evaluations)


Draw = Callable[[Studio, Sequence[Scene], Sequence[int]], Sampled]


def on(draw: Draw, **fields: Any) -> Draw:
    """Draw on a studio with other values of these fields."""

    def drawn(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int]) -> Sampled:
        return draw(replace(studio, **fields), scenes, seeds)

    return drawn


@dataclass(frozen=True)
class Method:
    """A row of the table: its name, its settings, and how it draws.

    more: a folder of weights that it needs beside the checkpoints.
    """

    label: str
    detail: str
    draw: Draw
    more: Path | None = None


def pulled(settings: Settings, correction: str, eta: float = PULL) -> Settings:
    """Return the settings with a pull of every model."""
    slots = tuple(replace(slot, eta=eta) for slot in settings.co_models)
    return replace(settings, eta=eta, correction=correction, co_models=slots)


def amdm_row(label: str, settings: Settings, main: str = MAIN, mix: Mix = slerp) -> Method:
    slots = ", ".join(f"{s.checkpoint} gamma {s.gamma:g} eta {s.eta:g} {s.noise}" for _, s in settings.active)
    steps, evaluations = (_shown(value) for value in (settings.steps, settings.evaluations))
    detail = f"K {steps}, E {evaluations}; {main} eta {settings.eta:g}; {slots}"
    if settings.eta:
        detail += f"; {settings.correction}"
    return Method(label, detail, partial(aggregated, settings=settings, main=main, mix=mix))


def _shown(number: int | str) -> str:
    """Write K or E: "auto", "all", or the number."""
    return str(number or "all")


def alone_row(name: str) -> Method:
    return Method(f"`{name}` alone", "told its own dialect", partial(alone, name=name))


FLOW_MAIN, FLOW_OTHER = FLOW_OF
FLOW_BEST = mixing(FLOW_OTHER, steps=AUTO, evaluations=4, gamma=0.5, co_eta=0.0)
FLOW_METHODS: dict[str, Method] = {
    **{name: alone_row(name) for name in FLOW_OF},
    "flow-average": Method("two predictions averaged", "all steps", partial(average, names=tuple(FLOW_OF))),
    **{
        f"flow-amdm-e{count or 'all'}": amdm_row("AMDM", replace(FLOW_BEST, evaluations=count), FLOW_MAIN)
        for count in (3, 4, 5, 0)
    },
    **{
        f"flow-amdm-{rule}": amdm_row("AMDM with a pull", pulled(FLOW_BEST, rule), FLOW_MAIN)
        for rule in ("relative", "norm", "own")
    },
    "flow-amdm-eps": amdm_row("AMDM, an eps co-model", BEST, FLOW_MAIN),
    "eps-amdm-flow": amdm_row("AMDM, a flow co-model", FLOW_BEST),
}
"""Rows that are not in the table: their checkpoints are not among the bundled ones."""
METHODS: dict[str, Method] = {
    **{name: alone_row(name) for name in THREE},
    EVERYTHING: Method(f"`{EVERYTHING}`: the ceiling", "told everything", partial(alone, name=EVERYTHING)),
    "average": Method("two predictions averaged", "all steps", average),
    "average-early": Method(
        "two predictions averaged", f"first {EARLY} steps, then {MAIN}", partial(average, steps=EARLY)
    ),
    "average-three": Method("three predictions averaged", "all steps", partial(average, names=THREE)),
    "merge": Method("two checkpoints merged 50/50", "told everything", merge),
    "merge-and": Method("two checkpoints merged 50/50", "told both dialects by AND", partial(merge, prompt="and")),
    "and-shapes": Method("`shapes` with AND", "told both dialects", partial(prompt_and, name="shapes")),
    "and-colours": Method("`colours` with AND", "told both dialects", partial(prompt_and, name="colours")),
    "amdm-defaults": amdm_row("AMDM, defaults", DEFAULTS),
    "amdm": amdm_row("**AMDM, best found**", BEST),
    "amdm-unguided": amdm_row("AMDM, best found for CFG 1", UNGUIDED),
    "guidance-sum": Method("both guidances at full weight", "all steps", partial(guidance, kind=Summed)),
    "saliency": Method("the stronger guidance's prediction", "all steps", partial(guidance, kind=Picked)),
    **{f"amdm-e{count or 'all'}": amdm_row("AMDM", replace(BEST, evaluations=count)) for count in (2, 3, 5, 0)},
    **{f"amdm-{rule}": amdm_row("AMDM with a pull", pulled(BEST, rule)) for rule in ("relative", "norm", "own")},
    "amdm-first-defaults": amdm_row("AMDM, the first defaults", FIRST_DEFAULTS),
    "amdm-lerp": amdm_row("AMDM with lerp", BEST, mix=torch.lerp),
    "amdm-three": amdm_row("**AMDM, three models**", BEST_THREE),
    "released": Method("the released code's rule", "its own defaults: mixed in steps 2 to 4", released),
    "released-long": Method(
        "the released code's rule", f"mixed in steps 2 to {EARLY}", partial(released, last=EARLY - 1)
    ),
}
"""The rows of the table by their names on the command line."""
