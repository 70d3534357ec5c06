"""A pretended device: its tensors hold their numbers in the CPU's memory, and say that they are elsewhere.

    with pretended():
        there = torch.ones(2).to(DEVICE)

What mixes them with the CPU's own tensors raises MixedError, as a GPU would. By name the device is torch's "meta", the
one that is there without a driver; `torch.tensor(..., device=DEVICE)` has no numbers, and cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class MixedError(RuntimeError):
    """One operation was given tensors of both devices."""


class Elsewhere(Tensor):
    """A tensor of the pretended device; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        told = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **told)

    def __init__(self, held: Tensor) -> None:
        self.held = held.detach()

    def new_tensor(self, data: Any, **more: Any) -> Tensor:
        return Elsewhere(self.held.new_tensor(data, **more))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Devices(TorchDispatchMode):
    """Sees the operations on the CPU's tensors too: some of these move them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretended() -> Iterator[None]:
    with _Devices():
        yield


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    # a GPU takes single numbers from the CPU
    if there and func not in _MOVES and any(tensor.ndim and not isinstance(tensor, Elsewhere) for tensor in tensors):
        raise MixedError(f"{func}: {[f'{tuple(tensor.shape)} on {tensor.device}' for tensor in tensors]}")
    device = kwargs.get("device")
    if device is not None:
        there, kwargs = torch.device(device) == DEVICE, {**kwargs, "device": torch.device("cpu")}
    found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    return tree_map(_there, found) if there else found


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Elsewhere) else value


def _there(value: Any) -> Any:
    return Elsewhere(value) if isinstance(value, Tensor) else value
