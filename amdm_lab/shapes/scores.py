"""Shares of objects, and of pictures, that are as they were asked for, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ..world.scenes import Scene

QUANTITIES = ("shape", "colour", "both", "background", "all three")
"""Shape, colour and both are of objects; background is of pictures; all three: objects with both, on the right one."""
Z95 = 1.959964
RESAMPLES = 2000


@dataclass(frozen=True)
class Share:
    """A share from 0 to 1 and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ({100 * self.low:.1f}–{100 * self.high:.1f})"

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 5) for name, value in asdict(self).items()}


def counts(wanted: Sequence[Scene], seen: Sequence[Scene]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Count for each quantity, by picture: how many are right, and of how many."""
    rows = [_counted(scene, verdict) for scene, verdict in zip(wanted, seen, strict=True)]
    objects = np.array([len(scene.things) for scene in wanted])
    ones = np.ones_like(objects)
    columns = np.array(rows).reshape(-1, len(QUANTITIES)).T
    return {
        name: (right, ones if name == "background" else objects)
        for name, right in zip(QUANTITIES, columns, strict=True)
    }


def _counted(scene: Scene, seen: Scene) -> tuple[int, int, int, int, int]:
    found = [(thing, seen.cells[cell]) for cell, thing in scene.things]
    shape = sum(it is not None and it.shape == thing.shape for thing, it in found)
    colour = sum(it is not None and it.colour == thing.colour for thing, it in found)
    both = sum(it == thing for thing, it in found)
    background = scene.background == seen.background
    return shape, colour, both, int(background), both * background


def shares(wanted: Sequence[Scene], seen: Sequence[Scene]) -> dict[str, Share]:
    """Return every quantity's share with its 95 % interval."""
    return {name: share(right, of) for name, (right, of) in counts(wanted, seen).items()}


def share(right: np.ndarray, of: np.ndarray) -> Share:
    """Return sum(right) / sum(of) over pictures, with Wilson's interval.

    The objects of one picture fare alike, so the interval is made for as many independent objects as would give the
    variance that the pictures show (cluster-robust, linearised). At 0 and 1 the pictures show none: there each picture
    counts as one.
    """
    pictures, total = len(right), of.sum()
    p = right.sum() / total
    spread = ((right - p * of) ** 2).sum() / total**2 * pictures / max(1, pictures - 1)
    n = min(p * (1 - p) / spread, total) if spread > 0 else pictures
    middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    return Share(float(p), max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def compared(
    one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """Compare two shares of the same pictures: their "ratio" and their "difference", each with a 95 % interval.

    one, other: (right, of) by picture. The intervals are a paired bootstrap's over the pictures.
    """
    pictures = len(one[0])
    drawn = np.random.default_rng(seed).multinomial(pictures, np.full(pictures, 1 / pictures), RESAMPLES)
    weights = np.vstack([np.ones(pictures, int), drawn])
    first, second = ((weights @ right) / (weights @ of) for right, of in (one, other))
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = {"ratio": first / second, "difference": first - second}
    ends = {name: np.nanquantile(values[1:], (0.025, 0.975)) for name, values in measures.items()}
    return {name: (float(values[0]), float(ends[name][0]), float(ends[name][1])) for name, values in measures.items()}
