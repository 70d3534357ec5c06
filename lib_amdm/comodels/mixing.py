"""From settings to a sampler: the one place where a slot becomes a `CoRun`, and the settings a `Mixing`."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.aggregation import Mix
from ..core.arguments import ONE_SPACE, CoRun, Crossing, Mixing, Pass, Prediction
from ..core.co_model import private_seeds
from ..core.levels import Form, as_exploding
from ..core.sampling import amdm
from ..errors import AmdmError
from ..layout import Box
from ..settings import THROUGH_PIXELS, CoModel, Settings
from .regions import region_map

POWER_OF_ESTIMATE = 2.28
"""The main model's share, 1 - gamma, is raised to this power if the co-model sees the estimate, so that a gamma of 0.5
acts as 0.79 (measurements/through-pixels.md)."""

PREDICTION_FROM = 4.0
"""The guidance scale from which the last prediction of a model that sees the estimate is kept. With strong guidance the
main model has taken over what it was shown, and the difference pushes it too far; with weak guidance it has not
(measurements/through-pixels.md)."""


class SlotRun(NamedTuple):
    """A slot's model as its host runs it; the fields without a comment are those of `CoRun`."""

    denoise: Callable[[Tensor, Tensor], Tensor | Prediction]
    highest: float = math.inf
    """The highest noise-to-signal ratio that the model knows."""
    state_key: Callable[[float], Hashable] | None = None
    on_nan: Callable[[], None] | None = None
    form: Form = as_exploding
    crossing: Crossing = ONE_SPACE
    guidance: float = 1.0
    """The model's guidance scale."""
    device: torch.device | None = None


def co_run(
    number: int,
    slot: CoModel,
    model: SlotRun,
    seeds: Sequence[int],
    size: tuple[int, int],
    main: float = math.inf,
    mask: Tensor | None = None,
    crop: Box | None = None,
) -> CoRun:
    """Make the `CoRun` of a slot, by its number from 1.

    seeds: those of the images.
    size: the latent's height and width.
    main: the highest noise-to-signal ratio that the main model knows.
    mask, crop: see `region_map`.

    AmdmError if the mask cannot be read, or if the slot is to be run through pixels without a crossing.
    """
    if slot.noise == THROUGH_PIXELS and model.crossing is ONE_SPACE:
        raise AmdmError(
            f'AMDM co-model {number}: noise "{THROUGH_PIXELS}" needs autoencoders, which are not known here; set noise '
            "to estimate."
        )
    sees_estimate = slot.sees_estimate or model.crossing is not ONE_SPACE
    # it starts from the main model's picture, and changes it less than a model that keeps a separate latent
    share = _share_of_estimate if sees_estimate else float
    return CoRun(
        model.denoise,
        gamma=share(slot.gamma),
        gamma_end=None if slot.gamma_end is None else share(slot.gamma_end),
        region=region_map(slot, *size, f"AMDM co-model {number}", mask, crop),
        eta=0.0 if sees_estimate else slot.eta,
        noise="estimate" if sees_estimate else slot.noise,
        seed=private_seeds(seeds, number),
        # above the main model's own highest level, both get a level that neither was trained on
        sigma_max=model.highest if model.highest < main else None,
        state_key=model.state_key,
        on_nan=model.on_nan,
        form=model.form,
        crossing=model.crossing,
        keeps_prediction=sees_estimate and model.guidance >= PREDICTION_FROM,
        guidance=model.guidance,
        device=model.device,
    )


def _share_of_estimate(gamma: float) -> float:
    # tiny gammas would round to 0
    return max(gamma, float(1 - (1 - gamma) ** POWER_OF_ESTIMATE))


def mixed(
    func: Callable[..., Any],
    settings: Settings,
    co_runs: Sequence[CoRun],
    in_pass: Pass = Pass(),
    mix: str | Mix = "slerp",
) -> Callable[..., Any]:
    """Return the sampler `func` with these co-models in its first steps. mix: see `Mixing`."""
    mixing = Mixing(
        steps=settings.steps,
        evaluations=settings.evaluations,
        eta=settings.eta,
        start=settings.start,
        correction=settings.correction,
        mix=mix,
    )
    return amdm(func, co_runs, mixing, in_pass)
