"""Small classifiers of pictures: what a picture shows, and in which style."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.errors import AmdmError

from ..bundled import JUDGE, STYLE_JUDGE
from ..world.data import drawn_scenes, pictures_of
from ..world.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, STYLES, Scene, Thing

_COLOUR_NAMES, _STYLE_NAMES = tuple(COLOURS), tuple(STYLES)
LEAST_ACCURACY = 0.99
Kind = TypeVar("Kind", bound="Judge")


class Judge(nn.Module):
    """A classifier of pictures. It sees each cell alone, so that no cell can be guessed from another."""

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
        """Load the trained judge; AmdmError if its file is missing."""
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
        right = dict.fromkeys(("shape", "colour", "background"), 0)
        for scene, verdict in _judged_drawings(self, drawn_scenes, count, seed):
            for wanted, seen in zip(scene.cells, verdict.cells):
                right["shape"] += (wanted and wanted.shape) == (seen and seen.shape)
                right["colour"] += (wanted and wanted.colour) == (seen and seen.colour)
            right["background"] += scene.background == verdict.background
        return {name: hits / (count if name == "background" else 4 * count) for name, hits in right.items()}

    def check(self, part: str) -> dict[str, float]:
        """Return the judge's accuracy; AmdmError if it is too low. part: the name of its training."""
        accuracy = self.accuracy()
        worst = min(accuracy, key=lambda name: accuracy[name])
        if accuracy[worst] < LEAST_ACCURACY:
            raise AmdmError(
                f"The judge recognises {worst} correctly in {accuracy[worst]:.1%} of fresh drawings, which must be "
                f"{LEAST_ACCURACY:.0%} or more; train it with `python -m amdm_lab train {part}`."
            )
        return accuracy


def in_percent(accuracy: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.2f} %" for name, share in accuracy.items())


def _judged_drawings(
    judge: Judge, make: Callable[[int, np.random.Generator], list[Scene]], count: int, seed: int
) -> Iterator[tuple[Scene, Scene]]:
    """Yield fresh scenes, and what a judge sees in drawings of them."""
    rng = np.random.default_rng(seed)
    for begin in range(0, count, 100):
        scenes = make(min(100, count - begin), rng)
        yield from zip(scenes, judge(pictures_of(scenes, rng)))


class StyleJudge(Judge):
    """`Judge`, trained further on drawings of all styles, with a head for the style of each cell's thing."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(96, len(STYLES))

    @classmethod
    def load(cls) -> StyleJudge:
        """Load the trained judge; AmdmError if its file is missing."""
        return trained(cls(), STYLE_JUDGE, "style-judge")

    def styles(self, pictures: Tensor) -> Tensor:
        """Turn pictures (batch, 3, 128, 128) from -1 to 1 into logits of each cell's style, (batch, 4, styles)."""
        return self.style(self.thoughts(pictures))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> list[Scene]:
        """Return the scene that each picture, (batch, 3, 128, 128) from -1 to 1, shows, its things in their style."""
        styles = self.styles(pictures).argmax(-1).tolist()
        return [_styled(scene, cells) for scene, cells in zip(super().forward(pictures), styles)]

    def accuracy(self, count: int = 1000, seed: int = 90_001) -> dict[str, float]:
        """Return the shares of right answers on fresh drawings in random styles, by thing; background by picture."""
        right = dict.fromkeys(("shape", "colour", "style", "background"), 0)
        things = 0
        for scene, verdict in _judged_drawings(self, styled_scenes, count, seed):
            for cell, thing in scene.things:
                seen = verdict.cells[cell]
                for name in ("shape", "colour", "style"):
                    right[name] += seen is not None and getattr(seen, name) == getattr(thing, name)
                things += 1
            right["background"] += scene.background == verdict.background
        return {name: hits / (count if name == "background" else things) for name, hits in right.items()}


def styled_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Make random scenes, each thing in a random style."""
    return [_styled(scene, rng.integers(len(STYLES), size=4).tolist()) for scene in drawn_scenes(count, rng)]


def _styled(scene: Scene, styles: Sequence[int]) -> Scene:
    """Return the scene with its cells' things in the styles of these numbers."""
    things = (thing and replace(thing, style=_STYLE_NAMES[style]) for thing, style in zip(scene.cells, styles))
    return replace(scene, cells=tuple(things))


def trained(judge: Kind, file: Path, part: str) -> Kind:
    """Read a judge's weights; AmdmError if there are none. part: the name of its training."""
    if not file.is_file():
        raise AmdmError(f"{file} is missing; run `python -m amdm_lab train {part}`, or get the file again.")
    judge.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    return judge.eval().requires_grad_(False)


def _thing(shape: int, colour: int) -> Thing | None:
    return Thing(SHAPES[shape], _COLOUR_NAMES[colour]) if shape < len(SHAPES) else None


def blemished(pictures: Tensor) -> Tensor:
    """Blemish pictures as a generator may: a little blurred, noisy, pale or tinted."""
    count = len(pictures)
    small = F.interpolate(pictures, scale_factor=0.5, mode="area")
    soft = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear")
    pictures = torch.where(
        torch.rand(count, 1, 1, 1) < 0.4, torch.lerp(pictures, soft, torch.rand(count, 1, 1, 1)), pictures
    )
    contrast, tint = 1 + 0.1 * torch.randn(count, 1, 1, 1), 0.04 * torch.randn(count, 3, 1, 1)
    return pictures * contrast + tint + 0.08 * torch.rand(count, 1, 1, 1) * torch.randn_like(pictures)
