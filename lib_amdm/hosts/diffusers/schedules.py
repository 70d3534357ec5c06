"""A scheduler's noise levels, and the training of its model: what the model predicts, and at which timesteps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import diffusers
import numpy as np

from ...core.levels import Form, Level, as_exploding, as_flow, flow, variance_exploding, variance_preserving
from ...errors import AmdmError

LEAST_SHARE = 2.0**-24
"""The picture's least share of the variance, instead of zero terminal SNR's 0, as in diffusers' own solvers."""


def _preserving(ratio: float) -> Level:
    return variance_preserving(1 / (1 + ratio**2))


_LEVEL_OF: dict[type, Callable[[float], Level]] = {
    diffusers.EulerDiscreteScheduler: variance_exploding,
    diffusers.EulerAncestralDiscreteScheduler: variance_exploding,
    diffusers.LMSDiscreteScheduler: variance_exploding,
    diffusers.DPMSolverMultistepScheduler: _preserving,
    diffusers.DEISMultistepScheduler: _preserving,
    diffusers.UniPCMultistepScheduler: _preserving,
    diffusers.FlowMatchEulerDiscreteScheduler: flow,
}
"""The schedulers with sigmas that evaluate their model once in a step, and the levels that their sigmas mean."""
_FOLLOWED = (diffusers.DDIMScheduler, *_LEVEL_OF)


def check_scheduler(scheduler: Any) -> None:
    """Raise AmdmError if the steps of a main pipeline's scheduler cannot be followed."""
    name, config = type(scheduler).__name__, scheduler.config
    if not isinstance(scheduler, _FOLLOWED):
        names = ", ".join(kind.__name__ for kind in _FOLLOWED)
        raise AmdmError(f"AMDM cannot follow {name}; set the pipeline's scheduler to one of {names}.")
    if config.get("invert_sigmas") or config.get("timestep_type") == "continuous":
        raise AmdmError(f"AMDM cannot follow {name} with inverted sigmas or continuous timesteps; make it without.")


def levels_of(scheduler: Any) -> list[Level]:
    """Return the level at which each step starts, and the one at which the last step ends."""
    if isinstance(scheduler, diffusers.DDIMScheduler):
        shares = [*scheduler.alphas_cumprod[scheduler.timesteps.long().cpu()].tolist(), scheduler.final_alpha_cumprod]
        return [variance_preserving(max(float(share), LEAST_SHARE)) for share in shares]
    level = next(level for kind, level in _LEVEL_OF.items() if isinstance(scheduler, kind))
    return [(flow if scheduler.config.get("use_flow_sigmas") else level)(sigma) for sigma in scheduler.sigmas.tolist()]


def position(scheduler: Any, timestep: Any) -> int:
    """Return the number of the step that the scheduler is about to make, in its whole schedule."""
    if isinstance(scheduler, diffusers.DDIMScheduler):
        return int((scheduler.timesteps == timestep).nonzero()[0])
    known = [place for place in (scheduler.step_index, scheduler.begin_index) if place is not None]
    return known[0] if known else scheduler.index_for_timestep(timestep)


def adds_noise(scheduler: Any, further: Mapping[str, Any]) -> bool:
    """Return True if the scheduler adds noise in each step. further: the further arguments of its step."""
    if isinstance(scheduler, diffusers.EulerAncestralDiscreteScheduler) or further.get("eta"):
        return True
    return bool(scheduler.config.get("stochastic_sampling")) or "sde" in scheduler.config.get("algorithm_type", "")


class Training(NamedTuple):
    """The training of a pipeline's network.

    predicts: a `prediction_type` of diffusers. timesteps: their number. ratios: the noise-to-signal ratio at each of
    them, rising; none for a flow model, whose timesteps are its levels.
    """

    predicts: str
    timesteps: int
    ratios: tuple[float, ...] = ()

    @classmethod
    def of(cls, scheduler: Any) -> Training:
        config, shares = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
        predicts = config.get("prediction_type", "epsilon")
        if shares is None or predicts == "flow_prediction":
            return cls("flow_prediction", config.num_train_timesteps)
        shares = shares.double().clamp_min(LEAST_SHARE)
        return cls(predicts, config.num_train_timesteps, tuple(((1 - shares) / shares).sqrt().tolist()))

    @property
    def domain(self) -> tuple[float, Form]:
        """The highest noise-to-signal ratio that the network knows, and the form of its noise levels."""
        return (self.ratios[-1], as_exploding) if self.ratios else (math.inf, as_flow)

    def shown(self, sigma: float) -> tuple[Level, float]:
        """Return the level of the latent that the network gets, and its timestep. sigma: in the network's form."""
        if not self.ratios:
            return flow(sigma), sigma * self.timesteps
        place = np.interp(math.log(sigma), np.log(self.ratios), np.arange(len(self.ratios)))
        return _preserving(sigma), float(place)

    def parts(self, level: Level) -> tuple[float, float]:
        """Return p and q of the denoised latent, p x + q output, for a latent x at a level of any form."""
        if self.predicts == "epsilon":
            return 1 / level.alpha, -level.sigma / level.alpha
        if self.predicts == "v_prediction":
            return level.alpha / level.scale**2, -level.sigma / level.scale
        return (0.0, 1.0) if self.ratios else (1.0, -level.sigma)
