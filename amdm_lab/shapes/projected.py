"""Projected guidance (arXiv 2410.02416): without the part that only makes a picture stronger as a whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..studio.host import GuidedDenoiser, StandaloneModel


class Projected(nn.Module):
    """A denoiser without the part of its guidance along its prediction for the prompt.

    The extra evaluation of `unguided` is not counted: a WebUI has that prediction at hand.
    """

    def __init__(self, guided: GuidedDenoiser, unguided: GuidedDenoiser) -> None:
        super().__init__()
        self.guided, self.unguided = guided, unguided

    @property
    def model(self) -> StandaloneModel:
        return self.guided.model

    @property
    def evaluations(self) -> int:
        return self.guided.evaluations

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        base = self.unguided(x, sigma)
        guidance = self.guided(x, sigma) - base
        return base + across(guidance, base + guidance / self.guided.cfg_scale)


def across(guidance: Tensor, prediction: Tensor) -> Tensor:
    """Return the guidance, (batch, ...), without its part along each picture's prediction, of the same shape."""
    along = prediction.flatten(1)
    share = (guidance.flatten(1) * along).sum(1) / along.square().sum(1).clamp_min(torch.finfo(along.dtype).tiny)
    return guidance - share.view(-1, *[1] * (guidance.ndim - 1)) * prediction
