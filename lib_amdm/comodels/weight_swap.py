"""Other weights for one co-model, such as LoRAs', while it is evaluated; afterwards its own, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn


class Change(NamedTuple):
    """Another tensor for a layer's parameter: `layer.name` is `value` while the change holds."""

    layer: nn.Module
    name: str
    value: Tensor


@contextmanager
def changed(changes: Sequence[Change]) -> Iterator[None]:
    """Give the layers the changes' weights while the context lasts.

    Nothing is modified in place: parameters are replaced for the duration and then restored, so shared storage is
    untouched. A layer without such a parameter (a bias) gets one for the duration. A host may move the layers in the
    meantime: each gets its own parameter back on the device where the layer then is.
    """
    replaced: list[tuple[Change, nn.Parameter | None]] = []
    try:
        for change in changes:
            parameter: nn.Parameter | None = getattr(change.layer, change.name)
            # the model may be on another device by now; every layer has a weight
            value = change.value.to((cast(Tensor, change.layer.weight) if parameter is None else parameter).device)
            change.layer.register_parameter(change.name, nn.Parameter(value, requires_grad=False))
            replaced.append((change, parameter))
        yield
    finally:
        for change, parameter in reversed(replaced):
            here = getattr(change.layer, change.name).device
            change.layer.register_parameter(change.name, parameter)
            if parameter is not None and parameter.device != here:
                change.layer.to(here)


def added(weight: Tensor, delta: Tensor) -> Tensor:
    """Return `weight` + `delta`, of one shape, in the weight's dtype, added in the delta's, which may be wider."""
    if delta.ndim == 4 and weight.ndim == 4 and delta.shape[1] < weight.shape[1]:
        # an inpainting checkpoint's first layer sees more channels than the LoRA was made for
        delta = torch.nn.functional.pad(delta, (0, 0, 0, 0, 0, weight.shape[1] - delta.shape[1]))
    return (weight.to(delta.dtype) + delta).to(weight.dtype)
