"""One co-model in one run: the latents and noise levels that it is shown, and its prediction for the main model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .accelerator import carried
from .aggregation import norm
from .arguments import CoRun, Prediction
from .levels import Level

STRENGTHS = 0.5, 2.0
"""The least and the most factor for the guidance of a last evaluation."""
ROUNDING = 1.005
"""The factor by which a schedule may begin above the highest level of the model that it is made for."""


def private_seeds(seeds: Sequence[int], slot: int) -> list[int]:
    """Return seeds for a slot's independent noise, derived from each image's seed and the slot's number."""
    return [(int(seed) * 0x9E3779B97F4A7C15 + slot * 0xBF58476D1CE4E5B9) % 2**63 for seed in seeds]


@dataclass(eq=False)
class RunningCoModel:
    """A co-model during one run of a sampler."""

    run: CoRun
    noise: Tensor | None = None
    """The noise with which it is shown the main model's prediction: the same in the whole run."""

    def first_offset(self, x: Tensor, level: Level, init: Tensor | None) -> Tensor | float:
        """Return its first latent minus the main model's `x` (batch, ...), in the sampler's own scale.

        level: that of x. init: the clean latent that x was noised from; None: zeros.
        """
        if self.run.noise != "independent":
            return 0.0
        clean = torch.zeros_like(x) if init is None else init.to(x)
        return level.alpha * clean + level.sigma * separate_noise(x, self.run.seed) - x

    @property
    def begins_early(self) -> bool:
        """True if it is on another device, and its input is known before the main model's evaluation."""
        return self.run.device is not None and not self.run.sees_estimate

    def begun(self, latent: Tensor, level: Level) -> Callable[[], Prediction]:
        """Begin an evaluation, and return a function that finishes it. Arguments and result as those of `prediction`.

        An accelerator has its work submitted. The CPU works in that function, while the main model's device does.
        """
        own_level = self._own_level(level)
        shown = self._shown(latent / (level.sigma / own_level.sigma))
        if shown.device.type == "cpu":
            return lambda: self._answer(shown, own_level)
        answer = self._answer(shown, own_level)
        return lambda: answer

    def prediction(self, latent: Tensor, denoised: Tensor, level: Level) -> Prediction:
        """Return its prediction in the main model's latent space, of `denoised`'s shape.

        latent: the noisy one that it has at this level. denoised: the main model's prediction, which a model that sees
        the estimate is shown with its own noise, instead of the latent.
        """
        run = self.run
        if not run.sees_estimate:
            return self.begun(latent, level)()
        own_level = self._own_level(level)
        clean = run.crossing.to_own(denoised.to(latent))
        if self.noise is None:
            self.noise = separate_noise(clean, run.seed)
        answer = self._answer(self._shown(own_level.alpha * clean + own_level.sigma * self.noise), own_level)
        return Prediction(run.crossing.to_main(carried(answer.denoised, clean.device)))

    def _own_level(self, level: Level) -> Level:
        """Return the level at which it is evaluated, in its form: no level above its highest."""
        own_level = self.run.form(level)
        if self.run.sigma_max is not None and own_level.sigma > self.run.sigma_max * ROUNDING:
            return replace(own_level, sigma=self.run.sigma_max)
        return own_level

    def _shown(self, latent: Tensor) -> Tensor:
        return latent if self.run.device is None else carried(latent, self.run.device)

    def _answer(self, shown: Tensor, own_level: Level) -> Prediction:
        answer = self.run.denoise(shown, shown.new_full((len(shown),), own_level.sigma))
        if isinstance(answer, Prediction):
            # at a scale of 1 only some hosts know the prediction without the prompt
            return answer if self.run.guidance > 1 else Prediction(answer.denoised)
        return Prediction(answer)


@dataclass(frozen=True)
class LastAnswer:
    """A co-model's last evaluation: its prediction minus the main model's at the same level, each (batch, ...)."""

    difference: Tensor
    """Of the whole predictions; the prediction itself, if the co-model `keeps_prediction`."""
    base: Tensor | None = None
    """Of the predictions without prompts; None: one of them is unknown."""
    length: Tensor | None = None
    """The length of the main model's guidance then, (batch, 1, ...)."""

    @classmethod
    def of(cls, co: CoRun, answer: Prediction, main: Prediction) -> LastAnswer:
        if co.keeps_prediction:
            return cls(answer.denoised)
        difference = answer.denoised - main.denoised
        if answer.base is None or main.base is None:
            return cls(difference)
        return cls(difference, answer.base - main.base, norm(main.guidance))

    def now(self, co: CoRun, main: Prediction) -> Prediction:
        """Return the co-model's prediction where the main model's is `main`.

        What differs in guidance grows and shrinks with the main model's guidance: reused as it is, it pushes on after
        both models have moved.
        """
        if co.keeps_prediction:
            return Prediction(self.difference)
        if self.base is None or self.length is None or main.base is None:
            return Prediction(main.denoised + self.difference)
        tiny = torch.finfo(main.denoised.dtype).tiny
        strength = (norm(main.guidance) / self.length.clamp_min(tiny)).clamp(*STRENGTHS)
        base = main.base + self.base
        return Prediction(main.denoised + self.base + strength * (self.difference - self.base), base)


def separate_noise(like: Tensor, seed: int | Sequence[int] | None) -> Tensor:
    """Draw Gaussian noise like a batch from separate generators, so that no other random stream moves.

    seed: see `CoRun.seed`. ValueError if its numbers are not those of the batch.
    """
    return torch.stack([_noise(like[0], of_sample) for of_sample in _seeds(seed, len(like))])


def _seeds(seed: int | Sequence[int] | None, count: int) -> Sequence[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [seed + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for a batch of {count}; give one number or one for each sample")
    return seed


def _noise(like: Tensor, seed: int | None) -> Tensor:
    """Draw Gaussian noise for one sample from a separate generator, so that no other random stream moves."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like)
