"""All questions to an accelerator: its memory, its random numbers, its events, its errors.

Each takes any device that a host hands over, with or without an index, under torch 2.1 and newer, and has an answer for
a kind of device that cannot say: None.
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
    """Return True if both mean one device; without an index a device is the current one of its kind."""
    return a.type == b.type and (a.index == b.index or _index(a) == _index(b))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that can still be had, those included that torch holds and does not use; None if unknown."""
    module = _module(device)
    if module is None or not hasattr(module, "mem_get_info") or not hasattr(module, "memory_stats"):
        return None
    try:
        # torch 2.1 refuses a device without an index
        free, _ = module.mem_get_info(_index(device))
        stats = module.memory_stats(_index(device))
    except (RuntimeError, ValueError, AttributeError, AssertionError):
        # some drivers do not say, and a torch without the kind has none
        return None
    unused: int = stats.get("reserved_bytes.all.current", 0) - stats.get("active_bytes.all.current", 0)
    return int(free) + max(unused, 0)


def is_memory_error(error: BaseException | None) -> bool:
    """Return True if an error, or one that it was raised from, says that memory ran out, on whichever device.

    Not every torch has a class for it, and a driver's own error is a RuntimeError with its text.
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
    """Return the state of a device's generator; None for the CPU and where there is none to be had."""
    module = _module(device)
    if module is None or not hasattr(module, "get_rng_state"):
        return None
    state: Tensor = module.get_rng_state(*_indexed(device))
    return state


def set_random_state(device: torch.device, state: Tensor | None) -> None:
    """Give a device's generator the state that `random_state` returned."""
    if state is not None:
        _module(device).set_rng_state(state, *_indexed(device))


@contextmanager
def random_numbers_kept(device: torch.device) -> Iterator[None]:
    """A context after which the generators of the CPU and of a device are as they were."""
    own, its = torch.get_rng_state(), random_state(device)
    try:
        yield
    finally:
        torch.set_rng_state(own)
        set_random_state(device, its)


def event(device: torch.device, timed: bool = False) -> Any:
    """Return an event behind all that a device has been given to do so far; its kind must be one of `EVENTS`.

    timed: its `elapsed_time` counts.
    """
    return EVENTS[device.type](device, timed)


def timed_event(device: torch.device) -> Any:
    """Return an event behind all that a device has been given to do so far, for `milliseconds`; None for a kind that
    has none."""
    make = {**EVENTS, **_TIMED}.get(device.type)
    try:
        return make(device, True) if make else None
    except (RuntimeError, AttributeError, AssertionError):
        # a torch without the kind
        return None


def milliseconds(begin: Any, end: Any) -> float | None:
    """Return how long a device took from one timed event to another, once it is past both; None if it cannot say."""
    try:
        end.synchronize()
        return float(begin.elapsed_time(end))
    except (RuntimeError, NotImplementedError):
        # XPU's events did not count in some versions
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
"""By kind of device, of those whose copies to the CPU an event can be behind."""
_TIMED: dict[str, _Make] = {"mps": _mps_event, "xpu": _xpu_event}


def _module(device: torch.device) -> Any:
    """torch's module for a kind of accelerator that is there; None for the CPU and for kinds that torch lacks."""
    module = getattr(torch, device.type, None) if device.type in ("cuda", "xpu", "mps") else None
    said_by = torch.backends.mps if device.type == "mps" else module
    return module if said_by is not None and said_by.is_available() else None


def _index(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    module = _module(device)
    return int(module.current_device()) if hasattr(module, "current_device") else 0


def _indexed(device: torch.device) -> tuple[torch.device, ...]:
    """The device as an argument, for the modules that take one."""
    return () if device.type == "mps" else (torch.device(device.type, _index(device)),)
