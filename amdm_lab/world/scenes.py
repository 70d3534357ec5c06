"""The shapes world: pictures of a 2x2 grid of coloured shapes on plain or textured backgrounds, and their drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

SIZE = 128
"""Width and height of a picture in pixels."""
LATENT = (4, 16, 16)
"""Shape of a picture's latent."""
CELL = SIZE // 2
SHAPES = ("circle", "square", "triangle", "cross", "diamond")
COLOURS = {
    "red": (0.86, 0.12, 0.13),
    "yellow": (0.98, 0.85, 0.12),
    "blue": (0.12, 0.32, 0.85),
    "green": (0.13, 0.62, 0.22),
    "black": (0.06, 0.06, 0.06),
    "white": (0.98, 0.98, 0.98),
    "brown": (0.50, 0.28, 0.12),
    "purple": (0.55, 0.16, 0.66),
}
"""The colours of COCO-MIG's prompts, as RGB from 0 to 1."""
BACKGROUNDS = ("plain", "striped", "dotted", "checked", "wavy")
CELLS = ("top left", "top right", "bottom left", "bottom right")
STYLES = {"filled": (0.0, 0.0), "between": (0.3, 0.7), "pierced": (1.0, 1.0)}
"""The share of the background that shows through the middle of a thing: from, to. A checkpoint has one of the styles at
the ends; what mixes two may end between them."""
HOLE = 8
"""The radius in pixels of the hole in the middle."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the picture's width and height, origin top left."""


@dataclass(frozen=True)
class Thing:
    """An object in a cell."""

    shape: str
    colour: str
    style: str = "filled"


@dataclass(frozen=True)
class Scene:
    """The content of a picture: the object of each cell, in the order of CELLS, or None; and the background."""

    cells: tuple[Thing | None, ...]
    background: str

    @property
    def things(self) -> list[tuple[int, Thing]]:
        """The objects with the number of their cell."""
        return [(cell, thing) for cell, thing in enumerate(self.cells) if thing]

    def in_style(self, style: str) -> Scene:
        """Return the same scene with all its things in one style."""
        return replace(self, cells=tuple(thing and replace(thing, style=style) for thing in self.cells))


def random_scene(rng: np.random.Generator, fill: float = 0.7) -> Scene:
    """Make a scene with one object at least; each other cell is filled with probability `fill`."""
    filled = rng.random(4) < fill
    filled[rng.integers(4)] = True
    colours = tuple(COLOURS)
    cells = tuple(
        Thing(SHAPES[rng.integers(len(SHAPES))], colours[rng.integers(len(colours))]) if full else None
        for full in filled
    )
    return Scene(cells, BACKGROUNDS[rng.integers(len(BACKGROUNDS))])


def draw(scene: Scene, rng: np.random.Generator, scale: int = 1) -> np.ndarray:
    """Draw the picture, (scale SIZE, scale SIZE, 3) float32 from 0 to 1, antialiased.

    Places, sizes and tones are drawn from `rng`. scale: pixels along a side for each of the small picture's, which
    shows the same things.
    """
    return draw_with_boxes(scene, rng, scale)[0]


def draw_with_boxes(scene: Scene, rng: np.random.Generator, scale: int = 1) -> tuple[np.ndarray, list[Box]]:
    """Draw the picture as `draw` does; return it and the box around each of `scene.things`."""
    picture, boxes = _background(scene.background, rng, scale), []
    across = _pixels(CELL, scale) - CELL / 2
    for cell, thing in scene.things:
        shift_x, shift_y = rng.uniform(-5, 5, 2)
        radius = rng.uniform(18, 24)
        colour = np.asarray(COLOURS[thing.colour]) + rng.uniform(-0.05, 0.05) + rng.uniform(-0.03, 0.03, 3)
        x, y = across[None, :] - shift_x, across[:, None] - shift_y
        cover = _soft(-_OUTLINES[thing.shape](x, y, radius), scale)
        side = CELL * scale
        top, left = cell // 2 * side, cell % 2 * side
        boxes.append(box_around(cover > 0.5, left, top, SIZE * scale))
        least, most = STYLES[thing.style]
        if most:
            depth = rng.uniform(least, most) if least < most else most
            cover = cover * (1 - depth * _soft(HOLE - np.hypot(x, y), scale))
        patch = picture[top : top + side, left : left + side]
        patch += cover[..., None] * (colour - patch)
    return np.clip(picture, 0, 1).astype(np.float32), boxes


def box_around(mask: np.ndarray, left: int = 0, top: int = 0, size: int = SIZE) -> Box:
    """Return the smallest box around a mask's pixels; its corner stands at (left, top) in a picture of `size`."""
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, x1 = left + int(across[0]), left + int(across[-1]) + 1
    y0, y1 = top + int(down[0]), top + int(down[-1]) + 1
    return x0 / size, y0 / size, x1 / size, y1 / size


def overlap(a: Box, b: Box | None) -> float:
    """Return intersection over union of two boxes; 0 if there is no second one."""
    if b is None:
        return 0.0
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both)


def _soft(depth: np.ndarray, scale: int) -> np.ndarray:
    """Return how much of each pixel lies behind an edge, 0 to 1, from how deep its middle lies in the small picture."""
    return np.clip(0.5 + scale * depth, 0, 1)


def _pixels(size: int, scale: int) -> np.ndarray:
    """Return the places of the pixels' middles along a side, in the small picture's pixels."""
    return (np.arange(size * scale, dtype=np.float32) + 0.5) / scale


def _background(kind: str, rng: np.random.Generator, scale: int) -> np.ndarray:
    tone = rng.uniform(0.66, 0.76) + rng.uniform(-0.04, 0.04, 3)
    depth = rng.uniform(0.16, 0.22)
    shift_x, shift_y = rng.uniform(0, 64, 2)
    x = _pixels(SIZE, scale)[None, :] - np.float32(0.5) + shift_x
    y = _pixels(SIZE, scale)[:, None] - np.float32(0.5) + shift_y
    pattern = np.broadcast_to(_PATTERNS[kind](x, y), (SIZE * scale, SIZE * scale))[..., None]
    return tone - depth * pattern


def _edge(wave: np.ndarray, sharpness: float) -> np.ndarray:
    """Turn a wave between -1 and 1 into bands of 0 and 1 with soft edges."""
    return np.clip(0.5 + sharpness * wave, 0, 1)


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x % 16 - 8, y % 16 - 8
    return np.clip(5.5 - np.hypot(x, y), 0, 1)


_TURN = np.float32(2 * np.pi / 16)
_PATTERNS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "plain": lambda x, y: np.zeros((1, 1), np.float32),
    "striped": lambda x, y: _edge(np.sin(_TURN * (x + 0 * y)), 2.5),
    "dotted": _dots,
    "checked": lambda x, y: _edge(np.sin(_TURN / 2 * x) * np.sin(_TURN / 2 * y), 5),
    "wavy": lambda x, y: _edge(np.sin(_TURN * (y + 4 * np.sin(_TURN / 2 * x))), 2.5),
}


def _triangle(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    slope = np.float32(0.95 / 1.75)
    side = (np.abs(x) - slope * (y + r)) / np.hypot(1, slope)
    return np.maximum(y - 0.75 * r, side)


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    x, y, width = np.abs(x), np.abs(y), 0.36 * r
    return np.minimum(np.maximum(x - r, y - width), np.maximum(x - width, y - r))


_OUTLINES: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - 0.88 * r,
    "triangle": _triangle,
    "cross": _cross,
    "diamond": lambda x, y, r: (np.abs(x) + np.abs(y) - 1.1 * r) / np.sqrt(2),
}
"""Distance to the outline in pixels, negative inside, of a shape of radius r around (0, 0); y points down."""
