"""Weights and inputs by a formula, the same on every machine: what the golden tensors were made with.

The published adapters have layers of fixed widths (512, 768), too large to be stored for a test, so the golden files
hold inputs and outputs, and both sides fill their weights from here, by the tensors' names in the adapters' files.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF


def uniform(name: str, shape: Iterable[int]) -> Tensor:
    """Numbers in [-1, 1) that only `name` decides: a 32-bit integer hash, so exact everywhere."""
    shape = tuple(shape)
    x = torch.arange(math.prod(shape), dtype=torch.int64) * 0x9E3779B1 + zlib.crc32(name.encode())
    for _ in range(2):
        x = (((x & _MASK) ^ ((x & _MASK) >> 16)) * 0x45D9F3B) & _MASK
    x = x ^ (x >> 16)
    return ((x >> 8).double() / 2**23 - 1).reshape(shape).float()


def weight(name: str, shape: Iterable[int]) -> Tensor:
    """A parameter: around 1 where a norm scales, 0.7 where a gate opens, otherwise around 0."""
    shape = tuple(shape)
    if "alpha_" in name or name.endswith("gamma"):
        return torch.full(shape, 0.7)
    # an adapter's are large, so that a mistake in it shows
    spread = (0.2 if re.search(r"fuser|position_net|migc|image_proj|ip_adapter", name) else 0.06) * uniform(name, shape)
    return 1 + spread if name.endswith(".weight") and len(shape) == 1 else spread


def fill(network: nn.Module, names: Mapping[str, str] | None = None) -> None:
    """Fill a network's parameters. names: what they are called here, where the network calls them otherwise."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(weight(names[name] if names else name, parameter.shape))
