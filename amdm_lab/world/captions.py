"""Captions of scenes: in full, or in a dialect that leaves something out."""

from __future__ import annotations

import numpy as np

from .scenes import CELLS, Scene, Thing

DIALECTS = ("shapes", "colours", "backgrounds", "full")
EMPTY = "an empty picture"
_PLACES = ("at the {}", "in the {}", "at {}", "{}")


def caption(scene: Scene, dialect: str = "full", rng: np.random.Generator | None = None) -> str:
    """Describe the scene in plain English: "a red circle at the top left, a blue cross at the bottom right".

    shapes: without colours and background; colours: without shapes and background; backgrounds: nothing else; full:
    everything. With `rng` the order and the small words vary; without it the caption is always the same.
    """
    ground = f"a {scene.background} background"
    if dialect == "backgrounds":
        return ground
    parts = [f"{_name(thing, dialect)} {_place(cell, rng)}" for cell, thing in scene.things]
    if rng is not None:
        parts = [parts[i] for i in rng.permutation(len(parts))]
    text = (" and " if rng is not None and rng.random() < 0.25 else ", ").join(parts) or EMPTY
    return f"{text}, on {ground}" if dialect == "full" else text


def phrases(scene: Scene, dialect: str = "shapes") -> list[str]:
    """Name each of `scene.things`."""
    return [_name(thing, dialect) for _, thing in scene.things]


def _name(thing: Thing, dialect: str) -> str:
    names = {
        "shapes": f"a {thing.shape}",
        "colours": f"something {thing.colour}",
        "full": f"a {thing.colour} {thing.shape}",
    }
    return names[dialect]


def _place(cell: int, rng: np.random.Generator | None) -> str:
    place = _PLACES[0] if rng is None or rng.random() < 0.5 else _PLACES[rng.integers(len(_PLACES))]
    return place.format(CELLS[cell])
