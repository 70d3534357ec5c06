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


def region_map(
    slot: CoModel,
    height: int,
    width: int,
    error_prefix: str,
    mask: Tensor | None = None,
    crop: Box | None = None,
) -> Tensor | None:
    """Return the shares of a slot's region, (1, 1, height, width) from 0 to 1 in the latent's size; None: everywhere.

    A share is the covered part of a latent's place. Boxes and a mask together mean the parts that are in both.
    mask: of any size, (n, height, width) from 0 to 1, in place of the slot's picture; the map is then (n, 1, ...).
    crop: the part of the picture that the latent shows; None: all of it.
    AmdmError, which begins with `error_prefix`, if the picture cannot be read.
    """
    boxes = boxes_of(slot.region)
    if mask is None and slot.mask:
        mask = torch.from_numpy(np.array(mask_of(slot.mask, error_prefix))).float().div_(255)[None]
    if crop is not None:
        covered = _in_crop(boxes, mask, slot.feather, height, width, crop)
        return None if bool((covered > 1 - 1e-6).all()) else covered
    covered = torch.ones(1, 1, height, width)
    if boxes:
        covered = _covered(boxes, height, width)[None, None]
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
    inside = _inside(boxes, xs, ys)
    return (_along(ys, height).T @ inside @ _along(xs, width)).float()


def _inside(boxes: Sequence[Box], xs: Sequence[float], ys: Sequence[float]) -> Tensor:
    """Return 1 for each part between two neighbouring ends that is in any of the boxes, and 0 for the others."""
    inside = torch.zeros(len(ys) - 1, len(xs) - 1, dtype=torch.float64)
    for x0, y0, x1, y1 in boxes:
        inside[ys.index(y0) : ys.index(y1), xs.index(x0) : xs.index(x1)] = 1
    return inside


def _along(ends: Sequence[float], count: int) -> Tensor:
    """Return the part of each of `count` places along a side that lies between one end and the next, (parts, count)."""
    places = torch.arange(count, dtype=torch.float64)
    return (torch.tensor(ends, dtype=torch.float64)[:, None] * count - places).clamp(0, 1).diff(dim=0)


def _in_crop(boxes: Sequence[Box], mask: Tensor | None, feather: float, height: int, width: int, crop: Box) -> Tensor:
    """Return a region's shares in a crop of the picture, whose edge is as soft as in the picture.

    Outside the picture, the region goes on as at the picture's edge.
    """
    xs, ys = (sorted({0.0, 1.0, *(box[end] for box in boxes for end in ends)}) for ends in ((0, 2), (1, 3)))
    if mask is None:
        parts = _inside(boxes, xs, ys)[None] if boxes else torch.ones(1, len(ys) - 1, len(xs) - 1, dtype=torch.float64)
    else:
        parts = mask.to("cpu", torch.float64).clamp(0, 1)
        rows, columns = parts.shape[-2:]
        if boxes:
            parts = parts * _covered(boxes, rows, columns).double()
        ys, xs = (torch.linspace(0, 1, count + 1, dtype=torch.float64).tolist() for count in (rows, columns))
    # the sides of one place of the latent, as shares of the picture's
    high, wide = (crop[3] - crop[1]) / height, (crop[2] - crop[0]) / width
    radius = round(feather * min(1 / high, 1 / wide))
    down, across = _averages(ys, crop[1], high, height, radius), _averages(xs, crop[0], wide, width, radius)
    return (down @ parts @ across.T).float().clamp(0, 1)[:, None]


def _averages(ends: Sequence[float], start: float, step: float, count: int, radius: int) -> Tensor:
    """Return the weights of the parts between `ends` in each of `count` places of a side, (count, parts).

    A place is as long as `step`, and is averaged with `radius` places on either side. The first and the last part go on
    beyond the picture.
    """
    places = start + step * torch.arange(count, dtype=torch.float64)[:, None]
    first, last = places - radius * step, places + (radius + 1) * step
    inner = torch.tensor(ends[1:-1], dtype=torch.float64)[None].expand(count, -1)
    cuts = torch.cat([first, inner.clamp(first, last), last], dim=1)
    return cuts.diff(dim=1) / (last - first)
