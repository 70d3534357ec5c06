"""The judge of pictures in two styles: it sees what `Judge` sees, and whether a thing is filled, pierced or between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..bundled import STYLE_JUDGE
from ..world.data import drawn_scenes, pictures_of
from ..world.scenes import STYLES, Scene
from .judge import Judge, trained

_STYLE_NAMES = tuple(STYLES)


class StyleJudge(Judge):
    """`Judge`, trained on with drawings of all styles, and a head for the style of each cell's thing."""

    def __init__(self) -> None:
        super().__init__()
        self.style = nn.Linear(96, len(STYLES))

    @classmethod
    def load(cls) -> StyleJudge:
        """Load the trained judge; AmdmError where its file is missing."""
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
        rng = np.random.default_rng(seed)
        for begin in range(0, count, 100):
            scenes = styled_scenes(min(100, count - begin), rng)
            for scene, seen in zip(scenes, self(pictures_of(scenes, rng))):
                for cell, thing in scene.things:
                    found = seen.cells[cell]
                    for name in ("shape", "colour", "style"):
                        right[name] += found is not None and getattr(found, name) == getattr(thing, name)
                    things += 1
                right["background"] += scene.background == seen.background
        return {name: hits / (count if name == "background" else things) for name, hits in right.items()}


def styled_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    """Make random scenes, each thing in a random style."""
    return [_styled(scene, rng.integers(len(STYLES), size=4).tolist()) for scene in drawn_scenes(count, rng)]


def _styled(scene: Scene, styles: Sequence[int]) -> Scene:
    """Return the scene with its cells' things in the styles of these numbers."""
    things = (thing and replace(thing, style=_STYLE_NAMES[style]) for thing, style in zip(scene.cells, styles))
    return replace(scene, cells=tuple(things))
