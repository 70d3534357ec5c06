"""Work on a picture in overlapping tiles, which takes less memory than the whole picture at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]


class Tile(NamedTuple):
    """The size of square tiles, and how much two neighbours have in common."""

    side: int
    overlap: int

    def divides(self, x: Tensor) -> bool:
        """Return True if `x` is larger than one tile."""
        return max(x.shape[-2:]) > self.side

    def starts(self, length: int) -> list[int]:
        """Return the places of the tiles along a side of this length; the last one ends where the side does."""
        last = max(length - self.side, 0)
        return [*range(0, last, self.side - self.overlap), last]


LATENTS, PICTURES = Tile(64, 16), Tile(512, 64)
"""As Forge and its kin have them."""


def tiled(function: Step, x: Tensor, tile: Tile) -> Tensor:
    """Return a function's result, in float32, from its results of the tiles of `x`, which fade into each other.

    It may change the last two sides of what it is given by a factor, and the other ones to anything.
    """
    (height, width), side = x.shape[-2:], tile.side
    total = weights = torch.empty(0)
    for top, left in itertools.product(tile.starts(height), tile.starts(width)):
        piece = x[..., top : top + side, left : left + side]
        made = function(piece).float()
        factor = made.shape[-1] / piece.shape[-1]
        if not total.numel():
            total = made.new_zeros((*made.shape[:-2], round(height * factor), round(width * factor)))
            weights = torch.zeros_like(total[0, 0])
        weight = _fading(made, round(tile.overlap * factor))
        rows, columns = (
            slice(start, start + length)
            for start, length in zip((round(top * factor), round(left * factor)), made.shape[-2:], strict=True)
        )
        total[..., rows, columns] += made * weight
        weights[..., rows, columns] += weight
    return total / weights


def _fading(made: Tensor, width: int) -> Tensor:
    """Return the weights of a tile's places, (height, width), which rise from its edges over this width."""
    down, across = (
        torch.minimum(from_start, from_start.flip(0)).clamp(max=width) / width
        for from_start in (torch.arange(1, side + 1, device=made.device) for side in made.shape[-2:])
    )
    return down[:, None] * across
