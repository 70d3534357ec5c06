"""The head that trains the text encoder: it reads from its output what a caption says of each cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from ..world.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, Scene
from .networks import CONTEXT

WIDTH = 64
_COLOUR_NAMES = tuple(COLOURS)


class CaptionProbe(nn.Module):
    """Attention with a learned query for each cell and for the background, as a UNet's places query a text."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.questions = nn.Parameter(torch.randn(len(CELLS) + 1, WIDTH))
        self.attention = nn.MultiheadAttention(WIDTH, 4, kdim=CONTEXT, vdim=CONTEXT, batch_first=True)
        self.shape = nn.Linear(WIDTH, len(SHAPES) + 1)
        self.colour = nn.Linear(WIDTH, len(COLOURS) + 1)
        self.background = nn.Linear(WIDTH, len(BACKGROUNDS) + 1)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Turn tokens (batch, 77) into logits in the order of `wanted_of`."""
        encoded = self.text_encoder(tokens).last_hidden_state
        queries = self.questions.expand(len(tokens), -1, -1)
        answers = self.attention(queries, encoded, encoded, need_weights=False)[0]
        cells = [answers[:, cell] for cell in range(len(CELLS))]
        return [
            *(self.shape(cell) for cell in cells),
            *(self.colour(cell) for cell in cells),
            self.background(answers[:, -1]),
        ]


def wanted_of(scene: Scene, dialect: str) -> list[int]:
    """Return numbers for what a caption in `dialect` says: the shapes of the cells, their colours, the background.

    The number after the last name stands for what it leaves out.
    """
    shapes = [SHAPES.index(thing.shape) if thing else len(SHAPES) for thing in scene.cells]
    colours = [_COLOUR_NAMES.index(thing.colour) if thing else len(COLOURS) for thing in scene.cells]
    ground = BACKGROUNDS.index(scene.background)
    if dialect not in ("shapes", "full"):
        shapes = [len(SHAPES)] * len(CELLS)
    if dialect not in ("colours", "full"):
        colours = [len(COLOURS)] * len(CELLS)
    if dialect not in ("backgrounds", "full"):
        ground = len(BACKGROUNDS)
    return [*shapes, *colours, ground]
