"""The card's memory: the bytes of all storages that a tensor on the card refers to."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakValueDictionary

import torch

from .record import RECORD, SCRIPT, caller

_lock = threading.RLock()
BASE: Any = torch.Tensor.__mro__[1]
"""The class behind torch.Tensor, where its own attributes are; its name differs with the version."""


class Memory:
    """The memory in use, and that which torch has set aside and not given back."""

    live = 0
    reserved = 0
    peak = 0

    def take(self, size: int) -> None:
        with _lock:
            if self.live + size > SCRIPT.total - SCRIPT.others:
                RECORD.refused.append(f"OutOfMemoryError for {size} bytes at {caller()}")
                raise torch.cuda.OutOfMemoryError(
                    f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB. GPU 0 has a total capacity of "
                    f"{SCRIPT.total / 2**30:.2f} GiB of which {self.free() / 2**20:.2f} MiB is free."
                )
            self.live += size
            self.peak = max(self.peak, self.live)
            # as torch does before it refuses: what is set aside and not used goes back first
            self.reserved = min(max(self.reserved, self.live), SCRIPT.total - SCRIPT.others)

    def give(self, size: int) -> None:
        with _lock:
            self.live -= size

    def empty(self) -> None:
        self.reserved = self.live

    def free(self) -> int:
        """The driver's figure, without the memory that is set aside."""
        return max(0, SCRIPT.total - SCRIPT.others - self.reserved)

    def statistics(self) -> dict[str, dict[str, dict[str, int]]]:
        used = {"current": self.live, "peak": self.peak, "allocated": self.peak, "freed": self.peak - self.live}
        kept = {"current": self.reserved, "peak": self.reserved, "allocated": self.reserved, "freed": 0}
        apart = dict.fromkeys(used, 0)
        names = {
            **dict.fromkeys(("allocation", "allocated_bytes", "active", "active_bytes", "requested_bytes"), used),
            **dict.fromkeys(("segment", "reserved_bytes"), kept),
            **dict.fromkeys(("inactive_split", "inactive_split_bytes", "oversize_allocations"), apart),
            "oversize_segments": apart,
        }
        return {name: dict.fromkeys(("all", "large_pool", "small_pool"), values) for name, values in names.items()}


MEMORY = Memory()


class Allocation:
    """One storage on the card, for as long as a tensor there refers to it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.size = 0
        MEMORY.take(storage.nbytes())
        self.storage, self.size = storage, storage.nbytes()

    def __del__(self) -> None:
        MEMORY.give(self.size)

    def __deepcopy__(self, memo: Any) -> Allocation:
        """Itself: a tensor's copy is given the allocation of its own storage afterwards."""
        return self

    def __reduce__(self) -> Any:
        return _not_counted, ()


def _not_counted() -> None:
    """The allocation of a tensor that is read from a file."""


_allocations: WeakValueDictionary[int, Allocation] = WeakValueDictionary()


def allocation(tensor: torch.Tensor) -> Allocation | None:
    """The allocation that holds a tensor's numbers; None where it has no storage to count."""
    try:
        storage = BASE.untyped_storage(tensor)
    except (NotImplementedError, RuntimeError):
        return None
    with _lock:
        key = storage._cdata
        found = _allocations.get(key)
        if found is None:
            found = _allocations[key] = Allocation(storage)
        return found
