"""Orders to the card, and a record of its work."""

from __future__ import annotations

import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

GB = 1 << 30
OWN = "lib_amdm"
HERE = __file__.rpartition("record.py")[0]
ERRORS: dict[str, Callable[[], Exception]] = {
    "OutOfMemoryError": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    # a RuntimeError before torch 2.8
    "AcceleratorError": lambda: accelerator_error("CUDA error: out of memory"),
    "RuntimeError": lambda: RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"
    ),
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "another": lambda: RuntimeError("CUDA error: an illegal memory access was encountered"),
}


def accelerator_error(text: str) -> Exception:
    """The error that a newer torch raises for the driver's codes; it has the code with it."""
    kind = getattr(torch, "AcceleratorError", None)
    if kind is None:
        return RuntimeError(text)
    error = kind(text)
    error.error_code = 2
    return error


@dataclass
class Fault:
    """An error at one place.

    `error` is a name of `ERRORS`; it is raised in an operation on the card that has `operation` in its name, such as
    "copy to the card", under a call of a function that `place` names as part of "path/file.py:function"; `skip` times
    it is let pass, and then raised `times` times.
    """

    error: str = "OutOfMemoryError"
    operation: str = ""
    place: str = ""
    skip: int = 0
    times: int = 1


@dataclass
class Script:
    """The size of the card, the part that others have, its faults, and what it does not know."""

    total: int = 24 * GB
    others: int = 0
    fault: Fault | None = None
    late: int = 1
    """The number of times that an event says that it has not happened yet."""

    float64: bool = True
    """False on a device such as Apple's, which refuses 64-bit numbers."""

    def change(self, **values: Any) -> None:
        """Set what is given; a fault is a dictionary."""
        for name, value in values.items():
            setattr(self, name, Fault(**value) if name == "fault" and value else value)


SCRIPT = Script()


@dataclass
class Record:
    """The work since :meth:`clear`."""

    waits: Counter[str] = field(default_factory=Counter)
    """The number of waits of the CPU for the card, by kind and caller: the extension, and the host under it."""

    mixed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    """Allocations that did not fit, and faults of the script."""

    emptied: int = 0
    questions: Counter[str] = field(default_factory=Counter)
    """Questions for free memory, by caller."""

    copied: Counter[str] = field(default_factory=Counter)
    """Bytes that went up to the card and down."""

    moves: weakref.WeakKeyDictionary[torch.nn.Module, list[int]] = field(default_factory=weakref.WeakKeyDictionary)
    """The number of times that a module's own parameters went up and down."""

    def clear(self) -> None:
        self.__dict__.update(Record().__dict__)

    def told(self) -> dict[str, Any]:
        return {
            "waits": dict(self.waits),
            "mixed": self.mixed,
            "refused": self.refused,
            "emptied": self.emptied,
            "questions": dict(self.questions),
            "copied": dict(self.copied),
        }


RECORD = Record()


class _Moving(threading.local):
    depth = 0


MOVING = _Moving()
"""More than 0 while a module moves: its copies are one wait."""


def frames() -> Iterator[FrameType]:
    """The calls that lead here, from the innermost, without those of the rehearsal and of torch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(HERE) and "/torch/" not in file:
            yield frame
        frame = frame.f_back


def caller() -> str:
    """The extension's line that leads here, "through" the host's that it called; or the host's line."""
    first = ""
    for frame in frames():
        file = frame.f_code.co_filename
        if OWN in file:
            own = f"{file[file.rindex(OWN) :]}:{frame.f_code.co_name}"
            return f"{own} through {first}" if first else own
        first = first or f"{'/'.join(file.split('/')[-2:])}:{frame.f_code.co_name}"
    return first


def own_caller() -> bool:
    return any(OWN in frame.f_code.co_filename for frame in frames())


def waited(kind: str) -> None:
    """Count a wait, where the extension leads to it."""
    if not MOVING.depth and own_caller():
        RECORD.waits[f"{kind} at {caller()}"] += 1


def fail_by_script(operation: str) -> None:
    """Raise the script's error, where it is due."""
    fault = SCRIPT.fault
    if fault is None or fault.times <= 0 or fault.operation not in operation:
        return
    if fault.place and not any(fault.place in f"{f.f_code.co_filename}:{f.f_code.co_name}" for f in frames()):
        return
    if fault.skip > 0:
        fault.skip -= 1
        return
    fault.times -= 1
    RECORD.refused.append(f"{fault.error} in {operation} at {caller()}")
    raise ERRORS[fault.error]()
