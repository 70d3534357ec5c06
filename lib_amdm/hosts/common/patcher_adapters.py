"""Adapters on models in patchers: their calls of the UNet tell which rows have the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ...comodels.adapter_use import AtWork
from ..webui_types import Denoiser
from .slot import progress


@contextmanager
def working(at_work: AtWork, unet: torch.nn.Module, done: Callable[[], float | None]) -> Iterator[None]:
    """Attach the adapter to a UNet during the context.

    The host's `cond_or_uncond` has an entry for each part of the call's batch, 0 for prompts; a part is a row for each
    image. done: the fraction of the steps that are done, or None for calls without the adapter.
    """

    def announce(unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        share = done()
        if share is None:
            at_work.end_call()
            return
        parts = kwargs["transformer_options"]["cond_or_uncond"]
        images = len(args[0]) // len(parts)
        at_work.announce([*range(images)] * len(parts), [part == 0 for part in parts for _ in range(images)], share)

    handle = unet.register_forward_pre_hook(announce, with_kwargs=True)
    try:
        with at_work.on(unet):
            yield
    finally:
        handle.remove()


class MainAdapterByCall:
    """An adapter at work on a main model in a patcher.

    It does not act in calls outside the denoiser's own evaluations, such as those of a co-model on the same UNet.
    """

    def __init__(
        self, denoiser: Denoiser, adapter: AtWork, unet: torch.nn.Module, evaluated: Callable[[], None]
    ) -> None:
        self.evaluated = evaluated
        self.share: float | None = None
        self.stack = ExitStack()
        self.stack.enter_context(working(adapter, unet, lambda: self.share))
        self.stack.callback(denoiser.register_forward_pre_hook(self._begin).remove)
        self.stack.callback(denoiser.register_forward_hook(self._end).remove)

    def _begin(self, denoiser: Denoiser, args: tuple[Any, ...]) -> None:
        self.share = progress(denoiser, denoiser.step)
        self.evaluated()

    def _end(self, denoiser: Denoiser, args: tuple[Any, ...], output: Any) -> None:
        self.share = None

    def remove(self) -> None:
        self.stack.close()
