"""Where in the picture a co-model speaks: boxes or a picture's mask, as a map over the latent."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..layout import Box, boxes_of
from ..settings import CoModel
from .pictures import mask_of


def region_map(slot: CoModel, height: int, width: int, who: str) -> Tensor | None:
    """The shares of a slot's region, (1, 1, height, width) from 0 to 1 in the latent's size; None: everywhere.

    A share is how much of a latent's place is covered. Boxes and a mask are both meant where both are given. AmdmError
    where the mask cannot be read; `who` opens the complaint.
    """
    covered = torch.ones(1, 1, height, width)
    boxes = boxes_of(slot.region)
    if boxes:
        covered = torch.stack([_covered(box, height, width) for box in boxes]).amax(0)[None, None]
    if slot.mask:
        mask = torch.from_numpy(np.array(mask_of(slot.mask, who), dtype=np.float32) / 255)
        covered = covered * F.interpolate(mask[None, None], (height, width), mode="area")
    radius = round(slot.feather * min(height, width))
    if radius:
        padded = F.pad(covered, (radius,) * 4, mode="replicate")
        covered = F.avg_pool2d(padded, 2 * radius + 1, stride=1)
    return None if bool((covered == 1).all()) else covered


def _covered(box: Box, height: int, width: int) -> Tensor:
    """How much of each place is in the box."""
    x0, y0, x1, y1 = box
    return _along(y0, y1, height)[:, None] * _along(x0, x1, width)[None, :]


def _along(begin: float, end: float, count: int) -> Tensor:
    places = torch.arange(count, dtype=torch.float32)
    return (torch.clamp(end * count - places, 0, 1) - torch.clamp(begin * count - places, 0, 1)).clamp(0, 1)
