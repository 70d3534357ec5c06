"""The share of a picture's things that are in their boxes.

A thing is in its box if the judge sees its shape in the box's cell, and the box around what is drawn there overlaps the
wanted box by at least half (intersection over union). "overlap" is the mean over all objects, 0 if nothing is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..arguments import add_measuring
from ..judges.scenes import Judge
from ..statistics import Estimate, share
from ..table import markdown
from ..world.conditions import boxes_of
from ..world.scenes import CELL, Box, Scene, box_around, overlap
from .measuring import Bench
from .methods import ADAPTER_METHODS, METHODS
from .rows import MAIN, Method

LEAST_OVERLAP = 0.5
TINTED, DARK, LIGHT = 0.2, 0.3, 0.88
"""Backgrounds are grey, and neither dark nor light. The colours of things are not."""
ROWS = [METHODS[MAIN], *(ADAPTER_METHODS[name] for name in ("untold", "layout-main", "layout-amdm"))]
BATCH = 50


def drawn_box(picture: np.ndarray, cell: int) -> Box | None:
    """Return the box around the thing in a cell of a picture (SIZE, SIZE, 3) from 0 to 1; None if there is none."""
    top, left = cell // 2 * CELL, cell % 2 * CELL
    patch = picture[top : top + CELL, left : left + CELL]
    low, high = patch.min(-1), patch.max(-1)
    mask = (high - low > TINTED) | (high < DARK) | (low > LIGHT)
    # a row or a column of two pixels is noise
    mask &= (mask.sum(0) > 2) & (mask.sum(1) > 2)[:, None]
    return box_around(mask, left, top) if mask.any() else None


def overlaps(scene: Scene, boxes: Sequence[Box], picture: Tensor) -> list[float]:
    """Return the overlap of each thing's box with what is drawn in its cell; picture: (3, SIZE, SIZE) from -1 to 1."""
    pixels = picture.permute(1, 2, 0).numpy() / 2 + 0.5
    return [overlap(box, drawn_box(pixels, cell)) for (cell, _), box in zip(scene.things, boxes)]


def in_boxes(
    scenes: Sequence[Scene], boxes: Sequence[Sequence[Box]], pictures: Tensor, judge: Judge
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count by picture the things with the right shape, and those in their boxes; return these and all overlaps."""
    right, inside, all_overlaps = [], [], []
    for scene, wanted, picture, verdict in zip(scenes, boxes, pictures, judge(pictures)):
        pairs = [(thing, verdict.cells[cell]) for cell, thing in scene.things]
        shapes = [seen is not None and seen.shape == thing.shape for thing, seen in pairs]
        of_scene = overlaps(scene, wanted, picture)
        right.append(sum(shapes))
        inside.append(sum(is_right and overlap >= LEAST_OVERLAP for is_right, overlap in zip(shapes, of_scene)))
        all_overlaps += of_scene
    return np.array(right), np.array(inside), np.array(all_overlaps)


def measure(bench: Bench, method: Method) -> tuple[Estimate, Estimate, float]:
    """Return the shares of things with the right shape in their cell and in their box, and the mean overlap."""
    scenes, seeds = bench.scenes(), bench.seeds()
    parts = []
    for begin in range(0, len(scenes), BATCH):
        part = slice(begin, begin + BATCH)
        pictures = bench.studio.pictures(method.draw(bench.studio, scenes[part], seeds[part]))
        parts.append(in_boxes(scenes[part], boxes_of(scenes[part], seeds[part]), pictures, bench.judge))
    right, inside, overlap = (np.concatenate(column) for column in zip(*parts))
    things = np.array([len(scene.things) for scene in scenes])
    return share(right, things), share(inside, things), float(np.mean(overlap))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_measuring(parser, "for each method", 200)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    bench = Bench.of(options.weights, pictures=options.pictures, seed=options.seed)
    lines = []
    for method in ROWS:
        right, inside, overlap = measure(bench, method)
        lines.append([method.label, method.detail, str(right), str(inside), f"{overlap:.2f}"])
    print(markdown(["method", "how", "shape in its cell", "in its box", "overlap"], lines))
