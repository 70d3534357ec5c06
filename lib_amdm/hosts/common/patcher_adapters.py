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


def work_on_main(
    denoiser: Denoiser, adapter: AtWork, unet: torch.nn.Module, evaluated: Callable[[], None]
) -> Callable[[], None]:
    """Set an adapter to work on a main model (`backend.AdapterPlaces.on_main`).

    It does not act in calls outside the denoiser's own evaluations, such as those of a co-model on the same UNet.
    """
    share: float | None = None

    def begin(denoiser: Denoiser, args: tuple[Any, ...]) -> None:
        nonlocal share
        share = progress(denoiser, denoiser.step)
        evaluated()

    def end(denoiser: Denoiser, args: tuple[Any, ...], output: Any) -> None:
        nonlocal share
        share = None

    stack = ExitStack()
    stack.enter_context(working(adapter, unet, lambda: share))
    stack.callback(denoiser.register_forward_pre_hook(begin).remove)
    stack.callback(denoiser.register_forward_hook(end).remove)
    return stack.close
