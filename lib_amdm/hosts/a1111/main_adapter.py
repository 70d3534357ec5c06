"""A1111: an adapter on the main model, whose batch the host evaluates in one call or in several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from ...comodels.adapter_use import AtWork, MainRows
from ..common.slot import progress
from ..webui_types import Denoiser


class MainAdapterByCount:
    """An adapter at work on the main model for one pass.

    The host evaluates a batch in one call of its model or in several, and may leave out the negative prompts; so the
    rows are counted over the calls of one evaluation. Other calls, such as those of a co-model on the
    main model's UNet, are not announced, and the adapter does not act in them.
    """

    def __init__(
        self, denoiser: Denoiser, adapter: AtWork, unet: torch.nn.Module, evaluated: Callable[[], None]
    ) -> None:
        self.at_work, self.evaluated = adapter, evaluated
        self.rows = MainRows([])
        self.progress = 0.0
        inner = denoiser.inner_model
        self.stack = ExitStack()
        self.stack.enter_context(adapter.on(unet))
        for handle in (
            denoiser.register_forward_pre_hook(self._evaluation, with_kwargs=True),
            inner.register_forward_pre_hook(self._call),
            inner.register_forward_hook(self._called),
        ):
            self.stack.callback(handle.remove)

    def _evaluation(self, denoiser: Denoiser, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.rows = MainRows([len(parts) for parts in kwargs["cond"].batch])
        self.progress = progress(denoiser, denoiser.step)

    def _call(self, inner: Any, args: tuple[Any, ...]) -> None:
        self.at_work.announce(*self.rows.take(len(args[0])), self.progress)

    def _called(self, inner: Any, args: tuple[Any, ...], output: Any) -> None:
        self.at_work.end_call()
        self.evaluated()

    def remove(self) -> None:
        self.stack.close()
