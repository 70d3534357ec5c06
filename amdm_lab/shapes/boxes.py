"""The share of a picture's things that stand in their boxes: `python -m amdm_lab boxes`

A thing is in its box where the judge sees its shape in the box's cell, and the box around what is drawn there overlaps
with the wanted box by at least half (intersection over union). "overlap" is the mean over all objects, 0 where nothing
is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib_amdm import command_line

from ..bundled import WEIGHTS
from ..world.conditions import boxes_of
from ..world.scenes import CELL, Box, Scene, box_around
from .adapter_methods import ADAPTER_METHODS
from .judge import Judge
from .measuring import Bench
from .methods import MAIN, METHODS
from .scores import Share, share
from .sweep import markdown

LEAST_OVERLAP = 0.5
TINTED, DARK, LIGHT = 0.2, 0.3, 0.88
"""Backgrounds are grey and neither dark nor light; no colour of a thing is."""
ROWS = {MAIN: METHODS[MAIN], **{name: ADAPTER_METHODS[name] for name in ("untold", "layout-main", "layout-amdm")}}
BATCH = 50


def drawn_box(picture: np.ndarray, cell: int) -> Box | None:
    """Return the box around the thing in a cell of a picture (SIZE, SIZE, 3) from 0 to 1; None where there is none."""
    top, left = cell // 2 * CELL, cell % 2 * CELL
    patch = picture[top : top + CELL, left : left + CELL]
    low, high = patch.min(-1), patch.max(-1)
    mask = (high - low > TINTED) | (high < DARK) | (low > LIGHT)
    # a row or a column of two pixels is noise
    mask &= (mask.sum(0) > 2) & (mask.sum(1) > 2)[:, None]
    return box_around(mask, left, top) if mask.any() else None


def overlap(a: Box, b: Box | None) -> float:
    """Return intersection over union."""
    if b is None:
        return 0.0
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    both = max(0.0, width) * max(0.0, height)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return both / (areas - both)


def overlaps(scene: Scene, boxes: Sequence[Box], picture: Tensor) -> list[float]:
    """Return the overlap of each thing's box with what is drawn in its cell; picture: (3, SIZE, SIZE) from -1 to 1."""
    pixels = picture.permute(1, 2, 0).numpy() / 2 + 0.5
    return [overlap(box, drawn_box(pixels, cell)) for (cell, _), box in zip(scene.things, boxes)]


def in_boxes(
    scenes: Sequence[Scene], boxes: Sequence[Sequence[Box]], pictures: Tensor, judge: Judge
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Count by picture the things with the right shape, and those in their boxes; return these and all overlaps."""
    right, inside, every = [], [], []
    for scene, wanted, picture, seen in zip(scenes, boxes, pictures, judge(pictures)):
        shapes = [bool(seen.cells[cell]) and seen.cells[cell].shape == thing.shape for cell, thing in scene.things]
        found = overlaps(scene, wanted, picture)
        right.append(sum(shapes))
        inside.append(sum(is_right and each >= LEAST_OVERLAP for is_right, each in zip(shapes, found)))
        every += found
    return np.array(right), np.array(inside), every


def measure(bench: Bench, name: str) -> tuple[Share, Share, float]:
    """Measure a row: the shares of things with the right shape in their cell and in their box, and the mean overlap."""
    scenes, seeds = bench.scenes(), bench.seeds()
    found = []
    for begin in range(0, len(scenes), BATCH):
        part = slice(begin, begin + BATCH)
        pictures = bench.studio.pictures(ROWS[name].draw(bench.studio, scenes[part], seeds[part]).latents)
        found.append(in_boxes(scenes[part], boxes_of(scenes[part], seeds[part]), pictures, bench.judge))
    right, inside, every = zip(*found)
    things = np.array([len(scene.things) for scene in scenes])
    mean = float(np.mean(np.concatenate(every)))
    return share(np.concatenate(right), things), share(np.concatenate(inside), things), mean


def main(arguments: list[str] | None = None) -> None:
    parser = command_line.parser(command_line.typed("amdm_lab boxes"), __doc__)
    parser.add_argument("--pictures", type=int, default=200, help="for each method")
    parser.add_argument("--seed", type=int, default=1, help="of scenes and noise")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the checkpoints")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    bench = Bench.of(chosen.weights, pictures=chosen.pictures, seed=chosen.seed)
    lines = []
    for name, method in ROWS.items():
        right, inside, mean = measure(bench, name)
        lines.append([method.label, method.detail, str(right), str(inside), f"{mean:.2f}"])
    print(markdown(["method", "how", "shape in its cell", "in its box", "overlap"], lines))
