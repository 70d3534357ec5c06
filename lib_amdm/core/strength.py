"""The guidance that mixing takes away from models whose prompts say different things, and how much of it they get back.

A guided prediction is D = u + g: `u` is the model's prediction without its prompt, `g` its guidance.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from .aggregation import Share, norm
from .arguments import Prediction

ENOUGH = 6.0
"""The guidance scale up to which mixing takes no guidance away (docs/measurements/guidance-scales.md)."""


def strengthened(
    predictions: Sequence[Prediction], shares: Sequence[Share], scales: Sequence[float], within: Tensor | None = None
) -> list[Tensor]:
    """Return the models' predictions with the guidance that mixing them takes away.

    A mean of guidances that point in different directions is shorter than they are. With p_i a model's part of the
    mixture, each guidance is multiplied by (sum |p_i g_i| / |sum p_i g_i|)^2: by 1 where all models say the same, and
    by 2 for two of equal length at right angles, so that each counts in full. It is at most 1 / sum p_i^2, and
    ENOUGH over the model's guidance scale; a scale of 1 or less means no guidance, and stays. Parts may be maps: then
    lengths and angles are those within the models' regions, and a place has the factor of the models that it has.

    predictions: of the main model (first) and of each co-model, (batch, ...).
    shares: one of each co-model, as `aggregate` has them.
    scales: a guidance scale for each model.
    within: a map of where the picture may be changed; the rest has no guidance.

    A prediction whose guidance is unknown leaves all as they are.
    """
    plain = [prediction.denoised for prediction in predictions]
    most = [ENOUGH / scale if scale > 1 else 1.0 for scale in scales]
    if any(prediction.base is None for prediction in predictions) or max(most) <= 1:
        return plain
    guidances = [prediction.guidance for prediction in predictions]
    if within is not None:
        guidances = [torch.where(within, guidance, torch.zeros_like(guidance)) for guidance in guidances]
    parts = _parts(shares, plain[0].device)
    guidances = [_within(part, guidance) for part, guidance in zip(parts, guidances)]
    taking = [part * norm(guidance) for part, guidance in zip(parts, guidances)]
    joint = functools.reduce(operator.add, [size * size for size in taking])
    for (one, first), (other, second) in combinations(zip(taking, zip(parts, guidances)), 2):
        joint = joint + 2 * one * other * _cosine(first, second)
    gain = functools.reduce(operator.add, taking).square() / joint.clamp_min(torch.finfo(joint.dtype).tiny)
    gain = gain.clamp(max=1 / functools.reduce(operator.add, [part * part for part in parts]))
    return [
        prediction + (gain.clamp(1, max(1.0, top)) - 1) * guidance
        for prediction, guidance, top in zip(plain, guidances, most)
    ]


def _parts(shares: Sequence[Share], device: torch.device) -> list[Share]:
    """Return the parts of the mixture of the main model and of each co-model, which are mixed in one after another."""
    parts: list[Share] = [1.0]
    for share in shares:
        share = share.to(device) if isinstance(share, Tensor) else share
        parts = [*(part * (1 - share) for part in parts), share]
    return parts


def _within(part: Share, x: Tensor) -> Tensor:
    """Return x where a model has a part of the mixture, and zeros elsewhere."""
    return torch.where(part > 0, x, torch.zeros_like(x)) if isinstance(part, Tensor) else x


def _cosine(one: tuple[Share, Tensor], other: tuple[Share, Tensor]) -> Tensor:
    """Return the cosine of two guidances, each with its part, where both models have one: (batch, 1, ...)."""
    a, b = _within(other[0], one[1]), _within(one[0], other[1])
    dot = (a * b).sum([*range(1, a.ndim)], keepdim=True)
    return dot / (norm(a) * norm(b)).clamp_min(torch.finfo(a.dtype).tiny)
