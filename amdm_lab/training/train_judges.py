"""The training of the judges, on drawings alone: of the shapes world, and of its two styles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..bundled import JUDGE, STYLE_JUDGE, WEIGHTS
from ..judges.scenes import Judge, StyleJudge, blemished, styled_scenes
from ..world import data
from ..world.scenes import STYLES, Scene
from .caption_probe import wanted_of
from .loop import note, train

STEPS, STYLE_STEPS, BATCH = 1500, 300, 48
_STYLE_NAMES = tuple(STYLES)


def train_judge(folder: Path) -> None:
    """Train the judge on drawings, some of them blemished."""
    torch.manual_seed(3)
    judge = Judge()

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        scenes, pictures = data.drawings(BATCH, rng)
        return _content_loss(judge, scenes, blemished(pictures))

    averaged, record = train("judge", judge, loss_of, STEPS, 2e-3, folder, average=0.995)
    _write(averaged, JUDGE)
    print(f"right on fresh drawings: {Judge.load().accuracy()}")
    note("judge", record, WEIGHTS)


def train_style_judge(folder: Path) -> None:
    """Train the judge on with drawings in random styles; it has a head for the style besides."""
    torch.manual_seed(4)
    judge = StyleJudge()
    judge.load_state_dict(Judge.load().state_dict(), strict=False)
    judge.train().requires_grad_(True)

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        scenes = styled_scenes(BATCH, rng)
        pictures = blemished(data.pictures_of(scenes, rng))
        wanted = [_STYLE_NAMES.index(thing.style) for scene in scenes for _, thing in scene.things]
        there = torch.tensor([[thing is not None for thing in scene.cells] for scene in scenes])
        return _content_loss(judge, scenes, pictures) + F.cross_entropy(
            judge.styles(pictures)[there], torch.tensor(wanted)
        )

    averaged, record = train("style-judge", judge, loss_of, STYLE_STEPS, 1e-3, folder, average=0.98)
    STYLE_JUDGE.parent.mkdir(exist_ok=True)
    _write(averaged, STYLE_JUDGE)
    print(f"right on fresh drawings: {StyleJudge.load().accuracy()}")
    note("style-judge", record, STYLE_JUDGE.parent)


def _content_loss(judge: Judge, scenes: list[Scene], pictures: Tensor) -> Tensor:
    """Return the cross entropies of shapes, of the colours of what is there, and of backgrounds."""
    wanted = torch.tensor([wanted_of(scene, "full") for scene in scenes])
    shapes, colours, grounds = judge.logits(pictures)
    shape_is, colour_is, ground_is = wanted[:, :4].flatten(), wanted[:, 4:8].flatten(), wanted[:, 8]
    there = colour_is < colours.shape[-1]
    return (
        F.cross_entropy(shapes.flatten(0, 1), shape_is)
        + F.cross_entropy(colours.flatten(0, 1)[there], colour_is[there])
        + F.cross_entropy(grounds, ground_is)
    )


def _write(judge: Judge, file: Path) -> None:
    save_file({key: value.half() for key, value in judge.state_dict().items()}, file)
