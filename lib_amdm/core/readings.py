"""Numbers that are read from a device without making the program wait for what the device has still to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from . import accelerator


class Reading:
    """A number of a tensor on its way to the program: sent off at once, waited for only where its value is asked for.

    number: a tensor of one element. On the CPU, and on devices whose copies cannot be followed, there is no way to go.
    """

    def __init__(self, number: Tensor) -> None:
        followed = number.device.type in accelerator.EVENTS
        self.number = number.to("cpu", non_blocking=True) if followed else number
        self.event = accelerator.event(number.device) if followed else None

    @property
    def arrived(self) -> bool:
        """False while `value` would wait."""
        return self.event is None or self.event.query()

    def value(self) -> Any:
        """The number, as Python has it."""
        if self.event is not None:
            self.event.synchronize()
        return self.number.item()


class Stopwatch:
    """The seconds that a device is at some work. Nothing waits for the device until they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.laps = device, list[tuple[Any, Any]]()
        self.begun: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """A context whose work is counted."""
        begin = self._now()
        try:
            yield
        finally:
            self.laps.append((begin, self._now()))

    def start(self) -> None:
        """Count from now on, and forget what was counted."""
        self.laps.clear()
        self.begun = self._now()

    def stop(self) -> None:
        """Count no more."""
        self.laps.append((self.begun, self._now()))

    @property
    def seconds(self) -> float | None:
        """All of them so far; None where the device cannot say: the program's own clock would measure how fast it is
        given work, and not the work."""
        if self.device.type == "cpu":
            return float(sum(end - begin for begin, end in self.laps))
        # the last first, behind which all others are
        laps = [None if None in lap else accelerator.milliseconds(*lap) for lap in reversed(self.laps)]
        return None if None in laps else sum(filter(None, laps)) / 1000

    def _now(self) -> Any:
        return time.perf_counter() if self.device.type == "cpu" else accelerator.timed_event(self.device)
