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

HALF = (torch.float16, torch.bfloat16)
LEAST_LOG_VARIANCE = -30.0
"""The least that the hosts' distributions have."""
Step = Callable[[Tensor], Tensor]


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
    calls: int = 0
    """The number of times that it has decoded or encoded."""

    def decode(self, latents: Tensor) -> Tensor:
        pictures = self._called(self.network.decode, self.to_network(latents.float()), decodes=True)
        return pictures.squeeze(2) if pictures.ndim == 5 else pictures

    def encode(self, pictures: Tensor) -> Tensor:
        shown = pictures.unsqueeze(2) if self.has_frames else pictures
        return self.from_network(self._called(self._mean, shown, decodes=False))

    def _mean(self, pictures: Tensor) -> Tensor:
        """Return the mean of the pictures' distribution: a latent drawn from it would depend on the batch."""
        # by its class: a host may have replaced the method of the original alone, to move it
        encoded = type(self.network).encode(_settled(self.network), pictures)
        return encoded if isinstance(encoded, Tensor) else encoded.mode()

    @torch.no_grad()
    def _called(self, function: Step, x: Tensor, decodes: bool) -> Tensor:
        self.calls += 1
        with self.stopwatch.running(), self.in_place(x, decodes) as device, accelerator.random_numbers_kept(device):
            dtype = next(iter(self.network.parameters())).dtype
            made = _by_one(function, x.to(device, dtype))
            if dtype in HALF and not bool(made.isfinite().all()):
                # as the hosts do: some autoencoders overflow in 16 bits
                with _in_float32(self.network, dtype):
                    made = _by_one(function, x.to(device, torch.float32))
            return made.to(x.device, torch.float32)


def _by_one(function: Step, x: Tensor) -> Tensor:
    """Call a function for a batch, or for each of its samples if the batch does not fit on the device."""
    try:
        return function(x)
    except Exception as error:
        if len(x) == 1 or not accelerator.is_memory_error(error):
            raise
    return torch.cat([function(one) for one in x.split(1)])


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
def _in_float32(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    network.to(torch.float32)
    try:
        yield
    finally:
        network.to(dtype)
