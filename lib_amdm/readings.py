"""Numbers that are read from a device without making the program wait for what the device has still to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Reading:
    """A number of a tensor on its way to the program: sent off at once, waited for only where its value is asked for.

    number: a tensor of one element. On the CPU, and on devices whose copies cannot be followed, there is no way to go.
    """

    def __init__(self, number: Tensor) -> None:
        follow = _FOLLOWED.get(number.device.type)
        self.number = number if follow is None else number.to("cpu", non_blocking=True)
        self.event = None if follow is None else follow(number.device)

    @property
    def arrived(self) -> bool:
        """False while `value` would wait."""
        return self.event is None or self.event.query()

    def value(self) -> Any:
        """The number, as Python has it."""
        if self.event is not None:
            self.event.synchronize()
        return self.number.item()


def _cuda_event(device: torch.device) -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


_FOLLOWED: dict[str, Callable[[torch.device], Any]] = {"cuda": _cuda_event}
"""By kind of device, an event behind what the device has been asked for so far."""
