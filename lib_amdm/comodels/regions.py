"""The region of a co-model: boxes or a picture's mask, as a map over the latent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..files.pictures import mask_of
from ..layout import Box, boxes_of
from ..settings import CoModel


def region_map(slot: CoModel, height: int, width: int, error_prefix: str, mask: Tensor | None = None) -> Tensor | None:
    """Return the shares of a slot's region, (1, 1, height, width) from 0 to 1 in the latent's size; None: everywhere.

    A share is the covered part of a latent's place. Boxes and a mask together mean the parts that are in both.
    mask: of any size, (n, height, width) from 0 to 1, in place of the slot's picture; the map is then (n, 1, ...).
    AmdmError, which begins with `error_prefix`, if the picture cannot be read.
    """
    covered = torch.ones(1, 1, height, width)
    boxes = boxes_of(slot.region)
    if boxes:
        covered = _covered(boxes, height, width)[None, None]
    if mask is None and slot.mask:
        mask = torch.from_numpy(np.array(mask_of(slot.mask, error_prefix))).float().div_(255)[None]
    if mask is not None:
        shares = mask.to("cpu", torch.float32).clamp(0, 1)
        covered = covered * F.interpolate(shares[:, None], (height, width), mode="area")
    radius = round(slot.feather * min(height, width))
    if radius:
        padded = F.pad(covered, (radius,) * 4, mode="replicate")
        covered = F.avg_pool2d(padded, 2 * radius + 1, stride=1)
    return None if bool((covered == 1).all()) else covered


def _covered(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """Return the part of each place that is in any of the boxes, (height, width)."""
    xs, ys = (sorted({box[end] for box in boxes for end in ends}) for ends in ((0, 2), (1, 3)))
    inside = torch.zeros(len(ys) - 1, len(xs) - 1, dtype=torch.float64)
    for x0, y0, x1, y1 in boxes:
        inside[ys.index(y0) : ys.index(y1), xs.index(x0) : xs.index(x1)] = 1
    return (_along(ys, height).T @ inside @ _along(xs, width)).float()


def _along(ends: Sequence[float], count: int) -> Tensor:
    """Return the part of each of `count` places along a side that lies between one end and the next, (parts, count)."""
    places = torch.arange(count, dtype=torch.float64)
    return (torch.tensor(ends, dtype=torch.float64)[:, None] * count - places).clamp(0, 1).diff(dim=0)
