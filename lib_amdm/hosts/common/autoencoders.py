"""The autoencoders of a pass's models, for co-models that are run through pixels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core import accelerator
from ...core.readings import Stopwatch
from .tiles import LATENTS, PICTURES, Step, Tile, tiled

HALF = (torch.float16, torch.bfloat16)
LEAST_LOG_VARIANCE = -30.0
"""The least that the hosts' distributions have."""


@dataclass(eq=False)
class PassAutoencoder:
    """One model's autoencoder in a pass, a `comodels.pixels.PictureCoder`."""

    network: Any
    """The host's module, with `encoder`, `quant_conv` and `decode`, or with `encode`."""
    to_network: Step
    """From the model's latents to the network's: another scale and offset."""
    from_network: Step
    in_place: Callable[[Tensor, bool], AbstractContextManager[torch.device]]
    """in_place(x, decodes): a context in which the network is on its device, with room for its work on `x`."""
    stopwatch: Stopwatch
    has_frames: bool = False
    """True if its pictures are videos of one frame."""
    always_tiled: bool = False
    """True if it works in tiles whether or not there is memory for the whole picture."""
    after_overflow: torch.dtype | None = torch.float32
    """The dtype in which it is called again if its result in 16 bits is not finite; None: it is not."""
    calls: int = 0
    """The number of times that it has decoded or encoded."""

    def decode(self, latents: Tensor) -> Tensor:
        pictures = self._called(self.network.decode, self.to_network(latents.float()), LATENTS)
        return pictures.squeeze(2) if pictures.ndim == 5 else pictures

    def encode(self, pictures: Tensor) -> Tensor:
        shown = pictures.unsqueeze(2) if self.has_frames else pictures
        return self.from_network(self._called(self._mean, shown, PICTURES))

    def _mean(self, pictures: Tensor) -> Tensor:
        """Return the mean of the pictures' distribution: a latent drawn from it would depend on the batch."""
        # by its class: a host may have replaced the method of the original alone, to move it
        encoded = type(self.network).encode(_settled(self.network), pictures)
        return encoded if isinstance(encoded, Tensor) else encoded.mode()

    @torch.no_grad()
    def _called(self, function: Step, x: Tensor, tile: Tile) -> Tensor:
        self.calls += 1
        in_place = self.in_place(x, tile is LATENTS)
        with self.stopwatch.running(), in_place as device, accelerator.random_numbers_kept(device):
            dtype = next(iter(self.network.parameters())).dtype
            made = self._worked(function, x.to(device, dtype), tile)
            wider = self.after_overflow if dtype in HALF else None
            if wider not in (None, dtype) and not bool(made.isfinite().all()):
                # as the hosts do: some autoencoders overflow in 16 bits
                with _converted(self.network, dtype, wider):
                    made = self._worked(function, x.to(device, wider), tile)
            return made.to(x.device, torch.float32)

    def _worked(self, function: Step, x: Tensor, tile: Tile) -> Tensor:
        if self.always_tiled:
            return torch.cat([tiled(function, one, tile) for one in x.split(1)])
        return _fitting(function, x, tile)


def _fitting(function: Step, x: Tensor, tile: Tile) -> Tensor:
    """Call a function for a batch; if the device has too little memory, for each of its samples, and then for tiles."""
    try:
        return function(x)
    except Exception as error:
        has_parts = len(x) > 1 or tile.divides(x)
        if not has_parts or not accelerator.is_memory_error(error):
            raise
    if len(x) == 1:
        return tiled(function, x, tile)
    return torch.cat([_fitting(function, one, tile) for one in x.split(1)])


def _settled(network: Any) -> Any:
    """Return a copy of an autoencoder, with the same weights, whose latents' distribution has hardly any width."""
    if not hasattr(network, "quant_conv"):
        return network
    last, settled = network.quant_conv, copy.copy(network)

    def narrow(moments: Tensor) -> Tensor:
        mean, _ = (moments if last is None else last(moments)).chunk(2, dim=1)
        return torch.cat([mean, torch.full_like(mean, LEAST_LOG_VARIANCE)], dim=1)

    # an attribute of the copy alone comes before the module of this name, which both share
    vars(settled)["quant_conv"] = narrow
    return settled


@contextmanager
def _converted(network: nn.Module, dtype: torch.dtype, wider: torch.dtype | None) -> Iterator[None]:
    network.to(wider)
    try:
        yield
    finally:
        network.to(dtype)
