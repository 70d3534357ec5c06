"""The inputs of adapters for a scene: its things in their boxes, or a reference picture of its colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib_amdm.layout import Layout, Region

from .captions import phrases
from .data import pictures_of
from .scenes import BACKGROUNDS, COLOURS, SHAPES, Box, Scene, Thing, draw_with_boxes


def layout_of(scene: Scene, boxes: Sequence[Box]) -> Layout:
    """Lay out the shapes in these boxes, one for each of `scene.things`."""
    return Layout(tuple(Region(phrase, box) for phrase, box in zip(phrases(scene), boxes)))


def boxes_of(scenes: Sequence[Scene], seeds: Sequence[int]) -> list[list[Box]]:
    """Return the boxes around the things of a drawing of each scene."""
    return [draw_with_boxes(scene, np.random.default_rng(seed))[1] for scene, seed in zip(scenes, seeds)]


def reshaped(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same colours in the same cells on the same background, with random shapes."""
    cells = tuple(thing and Thing(SHAPES[rng.integers(len(SHAPES))], thing.colour) for thing in scene.cells)
    return Scene(cells, scene.background)


def recoloured(scene: Scene, rng: np.random.Generator) -> Scene:
    """Return the same shapes in the same cells, with random colours on a random background."""
    colours = tuple(COLOURS)
    cells = tuple(thing and Thing(thing.shape, colours[rng.integers(len(colours))]) for thing in scene.cells)
    return Scene(cells, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def references(scenes: Sequence[Scene], seeds: Sequence[int]) -> Tensor:
    """Draw each scene with other shapes, (scenes, 3, SIZE, SIZE) from -1 to 1."""
    drawn = []
    for scene, seed in zip(scenes, seeds):
        rng = np.random.default_rng(seed)
        drawn.append(pictures_of([reshaped(scene, rng)], rng))
    return torch.cat(drawn)
