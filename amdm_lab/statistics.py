"""Shares, means, differences and ratios over pictures, each with its 95 % interval.

A picture has several instances, such as the objects of a scene, and these tend to be right or wrong together. So
every interval counts pictures as the independent observations, not instances (cluster-robust).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

Z95 = 1.959964
RESAMPLES = 2000
_NO_SPREAD = 1e-18
"""A variance below this is rounding."""

Counts = tuple[np.ndarray, np.ndarray]
"""For each picture: how many of its instances are right, and how many it has."""


class Estimate(NamedTuple):
    """A value and its 95 % interval; as text, a share in percent."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 5) for name, value in self._asdict().items()}


def share(right: np.ndarray, of: np.ndarray) -> Estimate:
    """Return sum(right) / sum(of) with Wilson's interval.

    The interval is that of as many independent instances as would give the variance between the pictures. At 0 and 1
    there is no such variance; there each picture counts as one instance.
    """
    pictures, total = len(right), of.sum()
    p = right.sum() / total
    spread = ((right - p * of) ** 2).sum() / total**2 * pictures / max(1, pictures - 1)
    n = min(p * (1 - p) / spread, total) if spread > 0 else pictures
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Estimate(float(p), max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def mean(total: np.ndarray, of: np.ndarray) -> Estimate:
    """Return sum(total) / sum(of), a mean of numbers from 0 to 1, with the linearised ratio's interval.

    Where all pictures are alike, the interval is that of as many yes-or-no answers.
    """
    value = float(total.sum() / of.sum())
    spread = _variance(_influences(total, of))
    if spread < _NO_SPREAD:
        return share(total, of)
    half = Z95 * math.sqrt(spread)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def difference(one: np.ndarray, other: np.ndarray, of: np.ndarray) -> Estimate:
    """Return the difference of two shares of the same instances.

    The interval is that of the linearised difference. Where no picture differs from the others, it is Newcombe's, from
    the intervals of the two shares.
    """
    first, second = share(one, of), share(other, of)
    value = first.value - second.value
    spread = _variance(_influences(one, of) - _influences(other, of))
    if spread < _NO_SPREAD:
        below = math.hypot(first.value - first.low, second.high - second.value)
        above = math.hypot(first.high - first.value, second.value - second.low)
    else:
        below = above = Z95 * math.sqrt(spread)
    return Estimate(value, value - below, value + above)


def ratio(one: np.ndarray, other: np.ndarray, seed: int = 0) -> Estimate:
    """Return the ratio of two shares of the same instances, with a paired bootstrap's interval over the pictures."""
    from scipy.stats import bootstrap

    def quotient(right: np.ndarray, of_other: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            # nothing against nothing says nothing for the first
            return np.nan_to_num(right.sum(axis) / of_other.sum(axis), nan=0.0, posinf=np.inf)

    value = float(quotient(one, other))
    if len(one) < 2:
        return Estimate(value, 0.0, math.inf)
    options: dict[str, Any] = {"paired": True, "n_resamples": RESAMPLES, "method": "percentile", "random_state": seed}
    # resamples in which the other has none are infinite
    with np.errstate(invalid="ignore"):
        interval = bootstrap((one, other), quotient, **options).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def _influences(right: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return how far each picture takes sum(right) / sum(of) from its mean."""
    return (right - right.sum() / of.sum() * of) / of.sum()


def _variance(influences: np.ndarray) -> float:
    pictures = len(influences)
    return float((influences**2).sum()) * pictures / max(1, pictures - 1)
