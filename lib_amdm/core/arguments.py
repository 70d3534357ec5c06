"""The arguments of `amdm`, checked when they are made: an error is a sentence with the argument and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .aggregation import CORRECTIONS, MIXES, Mix, Share
from .levels import Form, Level, as_exploding, variance_exploding

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""The word for a number of steps or evaluations that is chosen for each call."""
NOISES = ("shared", "independent", "estimate")


Change = Callable[[Tensor], Tensor]


class Crossing(NamedTuple):
    """The way of clean latents (batch, ...) between the main model's latent space and a co-model's."""

    to_own: Change
    """From the main model's latents to the co-model's."""
    to_main: Change
    """From the co-model's latents to the main model's."""


class Prediction(NamedTuple):
    """A model's prediction, (batch, ...)."""

    denoised: Tensor
    base: Tensor | None = None
    """The same without its prompt; None: unknown, or without guidance."""

    @property
    def guidance(self) -> Tensor:
        """The part of the prediction that its prompt made; zeros if `base` is unknown."""
        return self.denoised - (self.denoised if self.base is None else self.base)

    def changed(self, change: Change) -> Prediction:
        """Return the prediction with both parts changed."""
        return Prediction(change(self.denoised), None if self.base is None else change(self.base))


def _same(latent: Tensor) -> Tensor:
    return latent


ONE_SPACE = Crossing(_same, _same)


@dataclass(frozen=True)
class CoRun:
    """A model that is run alongside the main one."""

    denoise: Callable[[Tensor, Tensor], Tensor | Prediction]
    """denoise(x, sigma) returns the denoised latent after the model's own guidance, alone or with the one before it.
    x: a latent (batch, ...) at the noise level sigma (batch,), in the model's `form`: x0 + sigma noise, or
    (1 - sigma) x0 + sigma noise."""
    gamma: float = 0.5
    """The model's share in the aggregation, 0 to 1."""
    eta: float = 0.0
    """The model's correction."""
    noise: str = "shared"
    """"shared": it starts from the main model's noisy latent; "independent": from separate noise; "estimate": in each
    evaluation it is shown the main model's prediction with separate noise, and keeps no latent."""
    seed: int | Sequence[int] | None = None
    """For separate noise, one number for the batch or one for each sample; None draws a new one in each run."""
    crossing: Crossing = ONE_SPACE
    """The way to its latent space and back, for noise "estimate" alone."""
    gamma_end: float | None = None
    """The share at the last early step, reached linearly from gamma; None: constant."""
    region: Tensor | None = None
    """A map of 0 to 1 that broadcasts to the latent, multiplied with the share; None: everywhere."""
    sigma_max: float | None = None
    """The highest noise level that the model was trained on; above it, the model gets this level, and the latent scaled
    accordingly. A variance-exploding model combined with a flow model needs it."""
    state_key: Callable[[float], Hashable] | None = None
    """state_key(ratio) identifies the inputs of this model and the main one at a noise-to-signal ratio, such as the
    current part of a scheduled prompt. When it changes, the model is evaluated again, whatever the plan is."""
    on_nan: Callable[[], None] | None = None
    """Called when the model's answer was not finite and the main model's was. The answer counts as the main model's,
    since on a GPU this may be known only a step later. None: answers are taken as they are."""
    form: Form = as_exploding
    """The form of the model's noise levels."""
    keeps_prediction: bool = False
    """Between its evaluations its last prediction holds; False: the difference between its last prediction and the main
    model's, which follows the main model's changes, and leaves a co-model that equals the main one without effect."""
    guidance: float = 1.0
    """The model's guidance scale; up to 1 it has no guidance."""
    device: torch.device | None = None
    """The device on which `denoise` gets its latents, if it is another than the main model's. An accelerator then
    begins before the main model's evaluation, and its answer is fetched afterwards. None: the main model's."""

    def __post_init__(self) -> None:
        for name, share in (("gamma", self.gamma), ("gamma_end", self.gamma_end)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {share}")
        _check_choice("noise", self.noise, NOISES)
        if self.crossing is not ONE_SPACE and not self.sees_estimate:
            raise ValueError(f'a co-model of another latent space needs noise "estimate", not "{self.noise}"')
        if self.eta and self.sees_estimate:
            raise ValueError(
                f'a co-model with noise "estimate" has no latent to pull back; set eta to 0, not {self.eta}'
            )

    @property
    def sees_estimate(self) -> bool:
        """True if the model is shown the main model's prediction with separate noise."""
        return self.noise == "estimate"

    @property
    def has_share(self) -> bool:
        """True if the model has a share in any step."""
        return self.gamma > 0 or bool(self.gamma_end)

    def share(self, k: int, steps: int) -> Share:
        """Return its share in step k of `steps`."""
        way = 0.0 if self.gamma_end is None or steps < 2 else k / (steps - 1) * (self.gamma_end - self.gamma)
        share = min(max(self.gamma + way, 0.0), 1.0)
        return share if self.region is None else share * self.region


@dataclass(frozen=True)
class Mixing:
    """The way in which models are mixed."""

    steps: int | Auto = AUTO
    """K, the number of early steps; "auto": down to a noise level that depends on the latent's size."""
    evaluations: int | Auto = 0
    """E, the number of the K steps in which each co-model is evaluated, spread evenly over log noise levels from the
    first on; in the others its last one counts (`CoRun.keeps_prediction`). 0: in all K; "auto": 4, 5 if a co-model
    sees the estimate, or 7 for samplers that add noise in every step."""
    eta: float = 0.0
    """The main model's correction."""
    start: int = 0
    """The first step that is aggregated; before it each model runs on its own."""
    correction: str = "relative"
    """One of `aggregation.CORRECTIONS`."""
    mix: str | Mix = "slerp"
    """One of `aggregation.MIXES`, or the caller's own rule."""
    force: bool = False
    """Aggregate even if it changes nothing (K >= 1 and every gamma 0)."""

    def __post_init__(self) -> None:
        _check_count("steps", self.steps, word=AUTO)
        _check_count("evaluations", self.evaluations, word=AUTO)
        _check_count("start", self.start)
        _check_choice("correction", self.correction, CORRECTIONS)
        if isinstance(self.mix, str):
            _check_choice("mix", self.mix, MIXES)
        self.check_eta("eta", self.eta)

    @property
    def rule(self) -> Mix:
        return MIXES[self.mix] if isinstance(self.mix, str) else self.mix

    @property
    def is_empty(self) -> bool:
        """True if there is no step to aggregate, whatever the sampler's schedule is."""
        return not isinstance(self.steps, str) and self.steps <= self.start

    def check_eta(self, name: str, value: float) -> None:
        """Raise ValueError if `value` is not a share of the way back or, with the paper's correction, not a length."""
        if self.correction == "paper" and not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number from 0 on, not {value}")
        if self.correction != "paper" and not 0 <= value <= 1:
            raise ValueError(
                f"{name} must be from 0 to 1 with the {self.correction} correction, not {value}; lower it, or set "
                'correction to "paper" for a length in the paper\'s units'
            )


@dataclass(frozen=True)
class Pass:
    """The pass of a sampler in which models are mixed."""

    init: Tensor | None = None
    """The clean latent that the sampler's input was noised from (img2img), for independent noise."""
    within: Tensor | None = None
    """A map of booleans: where the picture may be changed at all (inpainting); None: everywhere."""
    nominal_steps: int = 20
    """For a sampler without a grid (DPM adaptive): the number of equal parts of log sigma that count as its steps."""
    guidance: float = 1.0
    """The main model's guidance scale; up to 1 `base` is not called."""
    base: Callable[[], Tensor | None] = lambda: None
    """Called after the main model's evaluation. Returns its output without its prompt, in the form of its output, so
    that weak guidance is not halved by mixing; None: unknown, or the model ran without guidance."""
    level_of: Callable[[float], Level] = variance_exploding
    """The noise level that a number in the sampler's `sigmas` means: `levels.flow` for a flow model."""
    still_mixing: Callable[[], bool] = lambda: True
    """Called before and after co-models are run; once it returns False, the main model goes on alone."""
    ahead: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context in which co-models are run before the main model's evaluation of the same step."""
    on_mixed: Callable[[int, int], None] = lambda done, steps: None
    """on_mixed(done, steps), called after each mixed step."""
    survives: Callable[[Exception], bool] = lambda error: False
    """Called with an error of a co-model or of the aggregation, or a NothingMixedError at the end. Where it returns
    True, the main model goes on alone."""

    def __post_init__(self) -> None:
        _check_count("nominal_steps", self.nominal_steps, 1)


def check_sampler(func: Any) -> None:
    """Raise ValueError if `func` is not a sampler function like k-diffusion's."""
    if not callable(func):
        raise ValueError(
            f"func must be a sampler's function, which is called with a model, a latent and sigmas, not {func!r:.80}; "
            "give one such as k_diffusion.sampling.sample_euler"
        )


def check_co_models(co_models: Any, mixing: Mixing) -> None:
    """Raise ValueError if `co_models` is not a sequence of `CoRun`, or an eta does not fit the correction."""
    if not isinstance(co_models, Sequence):
        raise ValueError(f"co_models must be a list of CoRun, not {co_models!r:.80}; give [CoRun(denoise)]")
    for index, co in enumerate(co_models):
        if not isinstance(co, CoRun):
            raise ValueError(f"co_models[{index}] must be a CoRun, not {co!r:.80}; give CoRun(denoise)")
        mixing.check_eta(f"the eta of co_models[{index}]", co.eta)


def check_falling(name: str, levels: Sequence[float]) -> None:
    """Raise ValueError if the levels do not end below their first one, or if one is not a number.

    Single steps may rise, as some do in reForge's cosine-exponential blend (modules/sd_schedulers.py).
    """
    if any(math.isnan(level) for level in levels) or (len(levels) > 1 and levels[-1] > levels[0]):
        raise ValueError(
            f"{name} must lead from the noise down to the picture, but lead from {levels[0]:g} to {levels[-1]:g}, or "
            "are no numbers; give the schedule in the other order"
        )


def _check_count(name: str, value: Any, least: int = 0, word: str = "") -> None:
    """Raise ValueError if `value` is neither a whole number from `least` on nor `word`."""
    if isinstance(value, str) and value == word:
        return
    if not isinstance(value, Integral) or value < least:
        other = f', or "{word}"' if word else ""
        raise ValueError(f"{name} must be a whole number from {least} on{other}, not {value!r:.80}")


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {", ".join(choices)}, not "{value}"')
