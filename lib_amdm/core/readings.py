"""Read numbers from an accelerator without waiting for the rest of its work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import accelerator


class Reading:
    """A one-element tensor being copied to the CPU asynchronously; `value` waits only if the copy is unfinished.

    number: the tensor. On the CPU, and on devices without events, it is read directly.
    """

    def __init__(self, number: Tensor) -> None:
        followed = number.device.type in accelerator.EVENTS
        self.number = number.to("cpu", non_blocking=True) if followed else number
        self.event = accelerator.event(number.device) if followed else None

    @property
    def arrived(self) -> bool:
        """True once `value` would not wait."""
        return self.event is None or self.event.query()

    def value(self) -> Any:
        """Return the number as a Python float."""
        if self.event is not None:
            self.event.synchronize()
        return self.number.item()


class Stopwatch:
    """The seconds that a device spends on some work. Nothing waits for the device until they are read."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.laps = device, list[tuple[Any, Any]]()
        self.begun: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the work of the context."""
        begin = self._now()
        try:
            yield
        finally:
            self.laps.append((begin, self._now()))

    def start(self) -> None:
        """Start counting anew."""
        self.laps.clear()
        self.begun = self._now()

    def stop(self) -> None:
        """Stop counting."""
        self.laps.append((self.begun, self._now()))

    @property
    def seconds(self) -> float | None:
        """Return the seconds so far; None if the device cannot say.

        The program's own clock would measure how fast work is submitted, not the work.
        """
        if self.device.type == "cpu":
            return float(sum(end - begin for begin, end in self.laps))
        # the last first, behind which all others are
        laps = [None if None in lap else accelerator.milliseconds(*lap) for lap in reversed(self.laps)]
        return None if None in laps else sum(filter(None, laps)) / 1000

    def _now(self) -> Any:
        return time.perf_counter() if self.device.type == "cpu" else accelerator.timed_event(self.device)
