"""The judge of the pictures: a small classifier that saw drawings alone, and none of the networks that it judges."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.errors import AmdmError

from ..bundled import JUDGE
from ..world.data import drawings
from ..world.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, Scene, Thing

_COLOUR_NAMES = tuple(COLOURS)
Kind = TypeVar("Kind", bound="Judge")


class Judge(nn.Module):
    """A classifier of pictures. Each cell is looked at alone, so no cell can be guessed from another."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, 24, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(24, 48, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(48, 64, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, 2, 1),
            nn.GELU(),
        )
        self.think = nn.Sequential(nn.Flatten(), nn.Linear(64 * 4 * 4, 96), nn.GELU())
        self.shape = nn.Linear(96, len(SHAPES) + 1)
        self.colour = nn.Linear(96, len(COLOURS))
        self.background = nn.Linear(96, len(BACKGROUNDS))

    @classmethod
    def load(cls) -> Judge:
        """Load the trained judge; AmdmError where its file is missing."""
        return trained(cls(), JUDGE, "judge")

    def thoughts(self, pictures: Tensor) -> Tensor:
        """Turn pictures (batch, 3, 128, 128) from -1 to 1 into what the heads read of each cell, (batch, 4, 96)."""
        cells = F.unfold(pictures, CELL, stride=CELL).transpose(1, 2).reshape(-1, 3, CELL, CELL)
        return self.think(self.look(cells)).unflatten(0, (-1, 4))

    def logits(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn pictures (batch, 3, 128, 128) from -1 to 1 into logits.

        These are of each cell's shape (the last: empty) and colour, both (batch, 4, kinds), and of the background,
        (batch, kinds).
        """
        thoughts = self.thoughts(pictures)
        return self.shape(thoughts), self.colour(thoughts), self.background(thoughts).mean(1)

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> list[Scene]:
        """Return the scene that each picture, (batch, 3, 128, 128) from -1 to 1, shows."""
        shapes, colours, grounds = (logits.argmax(-1).tolist() for logits in self.logits(pictures))
        return [
            Scene(tuple(_thing(shape, colour) for shape, colour in zip(*cells)), BACKGROUNDS[ground])
            for *cells, ground in zip(shapes, colours, grounds)
        ]

    def accuracy(self, count: int = 1000, seed: int = 90_001) -> dict[str, float]:
        """Return the shares of right answers on fresh drawings: shape and colour by cell, background by picture."""
        right = {"shape": 0, "colour": 0, "background": 0}
        things = 0
        rng = np.random.default_rng(seed)
        for begin in range(0, count, 100):
            scenes, pictures = drawings(min(100, count - begin), rng)
            for scene, seen in zip(scenes, self(pictures)):
                for wanted, found in zip(scene.cells, seen.cells):
                    right["shape"] += (wanted and wanted.shape) == (found and found.shape)
                    right["colour"] += (wanted and wanted.colour) == (found and found.colour)
                    things += 1
                right["background"] += scene.background == seen.background
        return {
            "shape": right["shape"] / things,
            "colour": right["colour"] / things,
            "background": right["background"] / count,
        }


def trained(judge: Kind, file: Path, part: str) -> Kind:
    """Read a judge's weights; AmdmError where there are none names the part whose training makes them."""
    if not file.is_file():
        raise AmdmError(f"{file} is missing; run `python -m amdm_lab train {part}`, or get the file again.")
    judge.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return judge.eval().requires_grad_(False)


def _thing(shape: int, colour: int) -> Thing | None:
    return Thing(SHAPES[shape], _COLOUR_NAMES[colour]) if shape < len(SHAPES) else None


def blemished(pictures: Tensor) -> Tensor:
    """Make pictures as a generator may give them: a little blurred, noisy, pale or tinted."""
    count = len(pictures)
    small = F.interpolate(pictures, scale_factor=0.5, mode="area")
    soft = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    pictures = torch.where(
        torch.rand(count, 1, 1, 1) < 0.4, torch.lerp(pictures, soft, torch.rand(count, 1, 1, 1)), pictures
    )
    contrast, tint = 1 + 0.1 * torch.randn(count, 1, 1, 1), 0.04 * torch.randn(count, 3, 1, 1)
    return pictures * contrast + tint + 0.08 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)
