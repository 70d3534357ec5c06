"""A pipeline's prediction without its prompt: pipelines guide inside their loop, so it is read from their network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

NEAR = 0.02
"""The error, as a share of the largest number, up to which guidance counts as plain: pipelines compute in half
precision."""


class Unprompted:
    """The outputs of a pipeline's network in a step. scale: the pipeline's guidance scale."""

    def __init__(self, pipe: Any, scale: float) -> None:
        self.network: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        self.scale = scale
        self.outputs: list[Any] = []
        self.order: tuple[int, int] | None = None
        """The places among the outputs with the prompt and without it; None until they are known."""
        self.is_plain = isinstance(self.network, torch.nn.Module) and scale > 1

    @contextmanager
    def read(self) -> Iterator[None]:
        """Keep the network's outputs during the context."""
        if not self.is_plain:
            yield
            return
        hook = self.network.register_forward_hook(lambda network, inputs, output: self.outputs.append(output[0]))
        try:
            yield
        finally:
            hook.remove()

    def base(self, guided: Tensor) -> Tensor | None:
        """Return the output without the prompt of this step, of the guided output's shape.

        None if the two outputs are not found, or the guided one is more than u + scale (c - u) of them.
        """
        outputs, self.outputs = self.outputs, []
        if not self.is_plain:
            return None
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and len(outputs[0]) == 2 * len(guided):
            outputs = [*outputs[0].chunk(2)]
        if len(outputs) != 2 or any(not isinstance(out, Tensor) or out.shape != guided.shape for out in outputs):
            return None
        if self.order is None:
            # read from the GPU once: a pipeline guides in all steps alike
            self.order = next((order for order in ((1, 0), (0, 1)) if self._guides(outputs, order, guided)), None)
            self.is_plain = self.order is not None
        return None if self.order is None else outputs[self.order[1]]

    def _guides(self, outputs: list[Tensor], order: tuple[int, int], guided: Tensor) -> bool:
        prompted, base = (outputs[place].float() for place in order)
        error = base + self.scale * (prompted - base) - guided.float()
        return bool(error.abs().max() <= NEAR * guided.float().abs().max())
