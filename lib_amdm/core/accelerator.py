"""Everything that depends on the kind of accelerator: its memory, random numbers, events and errors.

Each function takes any device of a host, with or without an index, under torch 2.1 and newer. It returns None for a
kind of device that cannot answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",  # the CPU's allocator
    "not enough gpu video memory",  # DirectML
    "alloc_failed",  # cuBLAS and cuDNN
    "erroroutofdevicememory",  # Level Zero
)


def same_place(a: torch.device, b: torch.device) -> bool:
    """Return True if both are the same device; without an index a device is the current one of its kind."""
    return a.type == b.type and (a.index == b.index or _index(a) == _index(b))


def placeable() -> list[str]:
    """Return the names of the devices on which a model can be placed: the CPU, and accelerators if there are several.

    The devices of a kind without numbers, such as DirectML's or a Mac's, are never several.
    """
    names = ["cpu"]
    for kind in ("cuda", "xpu"):
        module = _module(torch.device(kind))
        count = 0 if module is None else int(module.device_count())
        names += [f"{kind}:{index}" for index in range(count) if count > 1]
    return names


def carried(x: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; only a copy to the CPU is waited for, since its numbers may be read at once."""
    return x.to(device, non_blocking=device.type != "cpu")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be allocated, including torch's unused cache; None if unknown."""
    module = _module(device)
    if module is None or not hasattr(module, "mem_get_info") or not hasattr(module, "memory_stats"):
        return None
    try:
        # torch 2.1 refuses a device without an index
        free, _ = module.mem_get_info(_index(device))
        stats = module.memory_stats(_index(device))
    except (RuntimeError, ValueError, AttributeError, AssertionError):
        # some drivers cannot say, and some builds of torch lack the kind
        return None
    unused: int = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
    return int(free) + max(unused, 0)


def is_memory_error(error: BaseException | None) -> bool:
    """Return True if an error, or one that it was raised from, means that memory ran out, on any device.

    Not every torch has a class for it, and a driver's own error is a RuntimeError that says so in its text.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _MEMORY_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def random_state(device: torch.device) -> Tensor | None:
    """Return the state of a device's generator; None for the CPU, or if it cannot be read."""
    module = _module(device)
    if module is None or not hasattr(module, "get_rng_state"):
        return None
    state: Tensor = module.get_rng_state(*_indexed(device))
    return state


def set_random_state(device: torch.device, state: Tensor | None) -> None:
    """Restore the state of a device's generator that `random_state` returned."""
    if state is not None:
        _module(device).set_rng_state(state, *_indexed(device))


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """Restore the generators of the CPU and of a device at the end of the context."""
    cpu_state, device_state = torch.get_rng_state(), random_state(device)
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        set_random_state(device, device_state)


def event(device: torch.device, timed: bool = False) -> Any:
    """Record an event after all work submitted to a device so far; its kind must be one of `EVENTS`.

    timed: its `elapsed_time` can be used.
    """
    return EVENTS[device.type](device, timed)


def timed_event(device: torch.device) -> Any:
    """Record an event for `milliseconds` after all work submitted to a device so far; None if it has no events."""
    make = {**EVENTS, **_TIMED}.get(device.type)
    try:
        return make(device, True) if make else None
    except (RuntimeError, AttributeError, AssertionError):
        # a torch without the kind
        return None


def milliseconds(begin: Any, end: Any) -> float | None:
    """Return the time from one timed event to another, once both have passed; None if the device cannot say."""
    try:
        end.synchronize()
        return float(begin.elapsed_time(end))
    except (RuntimeError, NotImplementedError):
        # in some versions XPU's events measure nothing
        return None


def _cuda_event(device: torch.device, timed: bool) -> torch.cuda.Event:
    made = torch.cuda.Event(enable_timing=timed)
    made.record(torch.cuda.current_stream(device))
    return made


def _mps_event(device: torch.device, timed: bool) -> Any:
    made = torch.mps.event.Event(enable_timing=timed)
    made.record()
    return made


def _xpu_event(device: torch.device, timed: bool) -> Any:
    made = torch.xpu.Event(enable_timing=timed)
    made.record(torch.xpu.current_stream(torch.device("xpu", _index(device))))
    return made


_Make = Callable[[torch.device, bool], Any]
EVENTS: dict[str, _Make] = {"cuda": _cuda_event}
"""For each kind of device with events that can follow a copy to the CPU."""
_TIMED: dict[str, _Make] = {"mps": _mps_event, "xpu": _xpu_event}


def _module(device: torch.device) -> Any:
    """Return the torch module of a kind of accelerator that is available; None for the CPU and other kinds."""
    module = getattr(torch, device.type, None) if device.type in ("cuda", "xpu", "mps") else None
    said_by = torch.backends.mps if device.type == "mps" else module
    return module if said_by is not None and said_by.is_available() else None


def _index(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    module = _module(device)
    return int(module.current_device()) if hasattr(module, "current_device") else 0


def _indexed(device: torch.device) -> tuple[torch.device, ...]:
    """Return the device as an argument, for the modules that take one."""
    return () if device.type == "mps" else (torch.device(device.type, _index(device)),)
