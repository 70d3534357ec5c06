"""Numbers from a device, and the time that it takes for something."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
import torch

from lib_amdm.core.readings import Reading, Stopwatch


def test_a_reading_is_the_number() -> None:
    reading = Reading(torch.tensor([2.5]))
    assert reading.arrived and reading.value() == 2.5


@pytest.mark.parametrize("fails", [False, True])
def test_a_stopwatch_counts_what_runs_in_it_and_nothing_else(fails: bool) -> None:
    watch = Stopwatch(torch.device("cpu"))
    assert watch.seconds == 0
    for _ in range(2):
        with contextlib.suppress(ValueError), watch.running():
            time.sleep(0.02)
            if fails:
                raise ValueError
        time.sleep(0.05)
    assert 0.04 <= watch.seconds < 0.09


class Queue:
    """A device that is given work at once and does it later: its events are passed when their work is done."""

    def __init__(self, counts: bool = True) -> None:
        self.given, self.done, self.counts = 0.0, 0.0, counts

    def event(queue, enable_timing: bool = False) -> Any:  # noqa: N805 - the inner class has the self
        class Event:
            def record(self, stream: Any = None) -> None:
                self.at = queue.given

            def synchronize(self) -> None:
                queue.done = max(queue.done, self.at)

            def elapsed_time(self, end: Any) -> float:
                if not (enable_timing and queue.counts):
                    raise RuntimeError("elapsed_time is not supported by this event")
                assert queue.done >= end.at, "it is not yet past it"
                return 1000 * (end.at - self.at)

        return Event()


def timed_by(queue: Queue, kind: str, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    monkeypatch.setattr(torch.mps.event, "Event", queue.event)
    monkeypatch.setattr(torch.xpu, "Event", queue.event, raising=False)
    monkeypatch.setattr(torch.xpu, "current_stream", lambda device: device, raising=False)
    monkeypatch.setattr(torch.xpu, "current_device", lambda: 0, raising=False)
    return Stopwatch(torch.device(kind))


@pytest.mark.parametrize("kind", ["mps", "xpu", "xpu:1"])
def test_a_stopwatch_counts_a_devices_work_and_not_how_fast_it_is_given(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    watch = timed_by(queue, kind, monkeypatch)
    for seconds in (2, 3):
        queue.given += 40
        with watch.running():
            queue.given += seconds
    assert queue.done == 0, "nothing waits before it is asked"
    assert watch.seconds == 5
    watch.start()
    queue.given += 7
    watch.stop()
    assert watch.seconds == 7


@pytest.mark.parametrize("kind", ["mps", "xpu", "privateuseone", "privateuseone:0", "meta", "xpu that torch lacks"])
def test_a_device_without_events_that_count_has_no_seconds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "xpu that torch lacks":
        if getattr(torch, "xpu", None) is not None and torch.xpu.is_available():
            pytest.skip("this machine has an XPU")
        watch = Stopwatch(torch.device("xpu"))
    else:
        watch = timed_by(Queue(counts=False), kind, monkeypatch)
    with watch.running():
        pass
    assert watch.seconds is None
