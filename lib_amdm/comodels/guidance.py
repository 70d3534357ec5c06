"""Classifier-free guidance for one co-model evaluation, with weighted prompt parts, as the WebUI applies it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from ..core.arguments import Prediction

Cond = Tensor | dict[str, Tensor]
"""The rows of a condition: (rows, length, width), or such tensors by name."""
Predict = Callable[[Tensor, Tensor, Cond, list[int]], Tensor]
Announce = Callable[[Sequence[int], Sequence[bool]], None]


def guided(
    predict: Predict,
    x: Tensor,
    sigma: Tensor,
    parts: Sequence[Sequence[tuple[int, float]]],
    cond: Cond,
    uncond: Cond,
    cond_scale: float,
    skip_uncond: bool = False,
    together: bool = True,
    announce: Announce | None = None,
) -> Prediction:
    """Return uncond + sum_i w_i * scale * (cond_i - uncond) for each image of the batch, (images, ...), and uncond.

    x: the latents (images, ...).
    sigma: (images,).
    predict(x, sigma, cond, rows): the denoised latents for rows of conditions, with the image each row belongs to.
    parts: for each image its prompt's parts as (row of `cond`, weight).
    uncond: one row for each image.
    skip_uncond: leave the negative prompt out, as the WebUI does in some steps.
    together: one call for everything if the lengths allow; otherwise never more rows than images in a call, which needs
        less memory.
    announce: called before each call of `predict` with the image of each of its rows, and True for each row that has a
        prompt.
    """
    owners = [image for image, of_image in enumerate(parts) for _ in of_image]
    everyone = list(range(len(x)))
    at_once = len(owners) if together else len(x)

    def called(cond: Cond, prompted: list[int], negated: list[int]) -> Tensor:
        rows = prompted + negated
        if announce is not None:
            announce(rows, [True] * len(prompted) + [False] * len(negated))
        return predict(taken(x, rows), taken(sigma, rows), cond, rows)

    def of_parts() -> Tensor:
        chunks = [slice(begin, begin + at_once) for begin in range(0, len(owners), at_once)]
        return torch.cat([called(_rows(cond, c), owners[c], []) for c in chunks])

    if skip_uncond:
        out_cond = of_parts()
        base, cond_scale = taken(out_cond, [of_image[0][0] for of_image in parts]), 1.0
    elif together and _length(cond) == _length(uncond):
        out = called(_cat(cond, uncond), owners, everyone)
        out_cond, base = out[: len(owners)], out[len(owners) :]
    else:
        out_cond, base = of_parts(), called(uncond, [], everyone)
    denoised = base.clone()
    for image, of_image in enumerate(parts):
        for row, weight in of_image:
            denoised[image] += (out_cond[row] - base[image]) * (weight * cond_scale)
    return Prediction(denoised, None if skip_uncond else base)


def taken(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Return x[rows], without a list of numbers that would have to go to x's device."""
    return x if rows == [*range(len(x))] else torch.stack([x[row] for row in rows])


def _length(cond: Cond) -> int:
    return (cond["crossattn"] if isinstance(cond, dict) else cond).shape[1]


def _rows(cond: Cond, which: slice) -> Cond:
    return {key: rows[which] for key, rows in cond.items()} if isinstance(cond, dict) else cond[which]


def _cat(a: Cond, b: Cond) -> Cond:
    if isinstance(a, dict):
        named = cast(dict[str, Tensor], b)
        return {key: torch.cat([a[key], named[key]]) for key in a}
    return torch.cat([a, cast(Tensor, b)])
