"""A1111: an adapter on the main model. The host evaluates its batch in one call or in several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from ...comodels.adapter_use import AtWork, MainRows
from ..common.slot import progress
from ..webui_types import Denoiser


def work_on_main(
    denoiser: Denoiser, adapter: AtWork, unet: torch.nn.Module, evaluated: Callable[[], None]
) -> Callable[[], None]:
    """Set an adapter to work on the main model (`common.backend.AdapterPlaces.on_main`).

    The host evaluates a batch in one call of its model or in several, and may leave out the negative prompts; so the
    rows are counted over the calls of one evaluation. Other calls, such as those of a co-model on the
    main model's UNet, are not announced, and the adapter does not act in them.
    """
    rows, share = MainRows([]), 0.0

    def begin(denoiser: Denoiser, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal rows, share
        rows = MainRows([len(parts) for parts in kwargs["cond"].batch])
        share = progress(denoiser, denoiser.step)

    def call(inner: Any, args: tuple[Any, ...]) -> None:
        adapter.announce(*rows.take(len(args[0])), share)

    def end(inner: Any, args: tuple[Any, ...], output: Any) -> None:
        adapter.end_call()
        evaluated()

    inner, stack = denoiser.inner_model, ExitStack()
    stack.enter_context(adapter.on(unet))
    stack.callback(denoiser.register_forward_pre_hook(begin, with_kwargs=True).remove)
    stack.callback(inner.register_forward_pre_hook(call).remove)
    stack.callback(inner.register_forward_hook(end).remove)
    return stack.close
