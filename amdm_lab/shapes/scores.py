"""Shares of objects, and of pictures, that are as they were ordered, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..statistics import Counts, Estimate, share
from ..world.scenes import Scene

QUANTITIES = ("shape", "colour", "both", "background", "all three")
"""Shape, colour and both are of objects; background is of pictures; all three: objects with both, on the right one."""


def counts(wanted: Sequence[Scene], verdicts: Sequence[Scene]) -> dict[str, Counts]:
    """Count for each quantity, by picture: how many are right, and of how many."""
    rows = [_counted(scene, verdict) for scene, verdict in zip(wanted, verdicts, strict=True)]
    objects = np.array([len(scene.things) for scene in wanted])
    ones = np.ones_like(objects)
    columns = np.array(rows).reshape(-1, len(QUANTITIES)).T
    return {
        name: (right, ones if name == "background" else objects)
        for name, right in zip(QUANTITIES, columns, strict=True)
    }


def _counted(scene: Scene, verdict: Scene) -> tuple[int, int, int, int, int]:
    pairs = [(thing, verdict.cells[cell]) for cell, thing in scene.things]
    shape = sum(seen is not None and seen.shape == thing.shape for thing, seen in pairs)
    colour = sum(seen is not None and seen.colour == thing.colour for thing, seen in pairs)
    both = sum(seen == thing for thing, seen in pairs)
    background = scene.background == verdict.background
    return shape, colour, both, int(background), both * background


def shares(wanted: Sequence[Scene], verdicts: Sequence[Scene]) -> dict[str, Estimate]:
    """Return every quantity's share with its 95 % interval."""
    return {name: share(right, of) for name, (right, of) in counts(wanted, verdicts).items()}
