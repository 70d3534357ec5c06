"""The way through pixels: clean latents of one model as a picture, and as latents of another model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..core.arguments import Crossing

SHARES_UP_TO = 8.0
"""A `size` up to this is a fraction of the picture's, a larger one a number of pixels."""
SUITS_FROM, SUITS_TO = 0.7, 1.5
"""The sides, as fractions of a family's native one, at which its models still draw well."""
PATCH = 16
"""Sides of a picture that every autoencoder takes are multiples of this number of pixels."""
BLOCK = 64
"""The same for every network."""

Size = tuple[int, int]
"""Height and width in pixels."""


class PictureCoder(Protocol):
    """A model's autoencoder. Both models' have the same range of pictures."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return the pictures of clean latents: (batch, 3, height, width), float32, not clamped to their range."""

    def encode(self, pictures: Tensor) -> Tensor:
        """Return the means of the pictures' latents, (batch, channels, ...)."""


def crossing(main: PictureCoder, co: PictureCoder, size_of_co: Callable[[int, int], Size]) -> Crossing:
    """Return the way from the main model's latents to a co-model's and back.

    size_of_co(height, width): the size of the co-model's pictures, by that of the main model's.
    """
    size_of_main: Size = (0, 0)

    def to_own(latents: Tensor) -> Tensor:
        nonlocal size_of_main
        pictures = main.decode(latents)
        size_of_main = (pictures.shape[-2], pictures.shape[-1])
        return co.encode(resized(pictures, size_of_co(*size_of_main))).to(latents)

    def to_main(latents: Tensor) -> Tensor:
        return main.encode(resized(co.decode(latents), size_of_main)).to(latents)

    return Crossing(to_own, to_main)


def resized(pictures: Tensor, size: Size) -> Tensor:
    """Resize pictures (batch, 3, height, width), antialiased."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    # on the CPU, which every version of torch has this for
    return F.interpolate(pictures.float().cpu(), size, mode="bicubic", antialias=True).to(pictures)


def co_size(size: float | str, native: int | None, height: int, width: int) -> Size:
    """Return the height and width of a co-model's picture.

    size: the slot's setting: "auto", 0 for the same size, a fraction of the picture's sides, or the side in pixels of a
        square of the same area.
    native: the side of the pictures that the co-model's family was trained on; None if unknown.
    height, width: those of the main model's picture, in pixels.
    """
    side = math.sqrt(height * width)
    if isinstance(size, str):
        suits = native is None or SUITS_FROM * native <= side <= SUITS_TO * native
        factor = 1.0 if suits or native is None else native / side
    else:
        factor = (size or 1.0) if size <= SHARES_UP_TO else size / side
    step = PATCH if factor == 1 else BLOCK
    return _near(height * factor, step), _near(width * factor, step)


def _near(side: float, step: int) -> int:
    return max(round(side / step), 1) * step
