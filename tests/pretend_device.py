"""A pretended device: its tensors hold their numbers in the CPU's memory, and say that they are elsewhere.

    with pretended():
        there = torch.ones(2).to(DEVICE)

What mixes them with the CPU's own tensors raises MixedError, as a GPU would, and what would make one of float64 raises
TypeError, as Apple's GPUs and some of Intel's do. By name the device is torch's "meta", the
one that is there without a driver. What would make a GPU wait is counted: numbers that are read from it, and tensors
that move.

    with pretended() as traffic:
        there.sum().item()
    assert traffic == {"read": 1}

A number that is sent off, and waited for only later, counts as "sent"; `Arrival` stands for what follows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
_MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_READS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default)

_TOO_WIDE = (torch.float64, torch.complex128)


class MixedError(RuntimeError):
    """One operation was given tensors of both devices."""


class Arrival:
    """The answers of a device's event behind a copy: `late` times that the copy is still on its way.

    late: None where it arrives only when it is waited for.
    """

    def __init__(self, traffic: Counter[str], late: int | None = 0) -> None:
        self.traffic, self.late = traffic, late

    def query(self) -> bool:
        if self.late:
            self.late -= 1
            return False
        return self.late == 0

    def synchronize(self) -> None:
        self.traffic["wait"] += self.late != 0
        self.late = 0


class Elsewhere(Tensor):
    """A tensor of the pretended device; `held` are its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        form: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **form)

    def __init__(self, held: Tensor) -> None:
        self.held = held.detach()

    def new_tensor(self, data: Any, **more: Any) -> Tensor:  # type: ignore[override]
        return Elsewhere(self.held.new_tensor(data, **more))

    def tolist(self) -> Any:
        # it would be read past the dispatcher
        return self.to("cpu").tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, Counter())


class _Devices(TorchDispatchMode):
    """Sees the operations on the CPU's tensors too: some of these move them."""

    def __init__(self) -> None:
        super().__init__()
        self.traffic: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.traffic)


class _MadeThere(TorchFunctionMode):
    """A tensor that is made of Python's numbers on the device goes there from the CPU, as to a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") is not None and torch.device(kwargs["device"]) == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


@contextmanager
def pretended() -> Iterator[Counter[str]]:
    """The device is there; what is read from it and moved is counted as "read" and "move"."""
    with _Devices() as devices, _MadeThere():
        yield devices.traffic


def _run(func: Any, args: Any, kwargs: dict[str, Any], traffic: Counter[str]) -> Any:
    tensors: list[Tensor] = []

    def held(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor.held if isinstance(tensor, Elsewhere) else tensor

    held_args, held_kwargs = _mapped(args, held), _mapped(kwargs, held)
    there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    # a GPU takes single numbers from the CPU
    if there and func not in _MOVES and any(tensor.ndim and not isinstance(tensor, Elsewhere) for tensor in tensors):
        raise MixedError(f"{func}: {[f'{tuple(tensor.shape)} on {tensor.device}' for tensor in tensors]}")
    device = kwargs.get("device")
    if device is not None:
        there, held_kwargs = torch.device(device) == DEVICE, {**held_kwargs, "device": torch.device("cpu")}
    wide = kwargs.get("dtype") in _TOO_WIDE and any(isinstance(tensor, Elsewhere) for tensor in tensors)
    if func in _READS and there:
        traffic["read"] += 1
    if func in _MOVES and any(isinstance(tensor, Elsewhere) != there for tensor in tensors):
        traffic["sent" if kwargs.get("non_blocking") and not there else "move"] += 1
    found = func(*held_args, **held_kwargs)
    if wide or (there and isinstance(found, Tensor) and found.dtype in _TOO_WIDE):
        raise TypeError(f"{func}: float64 is not supported on this device")
    return _mapped(found, Elsewhere) if there else found


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the tensors in an operation's arguments or answer; torch's own walk through them is slower by far."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(each, change) for each in value])
    return {name: _mapped(each, change) for name, each in value.items()} if isinstance(value, dict) else value
