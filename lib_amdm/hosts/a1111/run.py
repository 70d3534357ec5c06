"""A1111 1.10: how co-models are run beside the main model in one pass, by the rules that the host has for its own."""

from __future__ import annotations

from typing import Any

import torch

from ...settings import CoModel
from ..common.pass_run import WebUIRun
from . import checkpoints
from .main_adapter import MainAdapter
from .slot import A1111SlotModel


class A1111Run(WebUIRun):
    """One pass of one batch on A1111."""

    def adapter_on_main(self, model: A1111SlotModel) -> MainAdapter:
        return MainAdapter(self.denoiser, model)

    def refuse_main(self) -> None:
        checkpoints.refuse_main(self.main)

    def sigma_max_of(self, model: Any) -> float:
        alpha_cumprod = model.alphas_cumprod[-1].item()
        return ((1 - alpha_cumprod) / alpha_cumprod) ** 0.5

    def slot_model(self, number: int, slot: CoModel) -> A1111SlotModel:
        return A1111SlotModel(self, number, slot)

    @property
    def shows_known(self) -> bool:
        """Whether the known picture is blended into what a model is shown, and not into what it answers."""
        return self.denoiser.mask_before_denoising and self.denoiser.mask is not None

    def shown(self, x: torch.Tensor, sigma: torch.Tensor, host_sigma: torch.Tensor) -> torch.Tensor:
        """What a model is shown of a latent; timestep samplers blend in its variance-preserving form."""
        if not self.shows_known:
            return x
        scale = (1 + sigma**2).sqrt().view(-1, *[1] * (x.ndim - 1))
        return self.masked(x / scale, host_sigma) * scale
