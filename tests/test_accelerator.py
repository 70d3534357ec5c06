"""Accelerators: every question has an answer, and numbers and times that are read from one."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from webui.accelerator_answers import CUDA, OTHERS, all_answers, expected

from lib_amdm.core import accelerator, readings
from lib_amdm.core.readings import Reading, Stopwatch

GIGABYTE = 2**30


class Card:
    """torch's module for a kind of accelerator, with torch 2.1's rule: a device is a number."""

    def __init__(self, free: int = 3 * GIGABYTE) -> None:
        self.free, self.states = free, {0: torch.tensor([0]), 1: torch.tensor([1])}

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 1

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        if not isinstance(device, int):
            raise ValueError(f"Expected a torch.device with a specified index or an integer, but got:{device}")
        return self.free, 8 * GIGABYTE

    def memory_stats(self, device: int) -> dict[str, int]:
        return {"reserved_bytes.all.current": 2 * GIGABYTE, "active_bytes.all.current": GIGABYTE}

    def get_rng_state(self, device: torch.device) -> torch.Tensor:
        assert device.index is not None
        return self.states[device.index].clone()

    def set_rng_state(self, state: torch.Tensor, device: torch.device) -> None:
        assert device.index is not None
        self.states[device.index] = state


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    made = Card()
    for name in ("is_available", "current_device", "mem_get_info", "memory_stats", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, getattr(made, name))
    return made


# torch's event of a Mac's GPU cannot be ended where there is none
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_question_has_an_answer_about_every_kind_of_device() -> None:
    """On a machine without it too; tests/webui/test_accelerator.py asks under the WebUIs' own torches."""
    found = all_answers()
    for kind in OTHERS:
        if kind.startswith(("xpu", "mps")) and accelerator.random_state(torch.device(kind)) is not None:
            del found[kind]  # this machine has one
    assert found == {kind: expected(kind) for kind in found}
    assert found.keys() >= {*CUDA, "cpu", "privateuseone", "meta"}


@pytest.mark.parametrize("kind", ["cuda", "cuda:0", "cuda:1"])
def test_free_memory_is_what_can_be_had_in_any_form_of_the_device(kind: str, card: Card) -> None:
    """Memory that torch holds and does not use can be had too."""
    assert accelerator.free_memory(torch.device(kind)) == 4 * GIGABYTE


def test_free_memory_is_unknown_where_a_driver_does_not_say(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: torch.zeros(1, device="nowhere"))
    assert accelerator.free_memory(torch.device("cuda")) is None


def test_a_device_without_an_index_is_the_current_one(card: Card) -> None:
    assert accelerator.same_place(torch.device("cuda"), torch.device("cuda:1"))
    assert not accelerator.same_place(torch.device("cuda"), torch.device("cuda:0"))


@pytest.mark.parametrize("kind", ["cuda", "cuda:0", "cuda:1"])
def test_the_numbers_drawn_in_between_are_drawn_again(kind: str, card: Card) -> None:
    device = torch.device(kind)
    drawn = torch.get_rng_state()
    before = {index: state.clone() for index, state in card.states.items()}
    with accelerator.random_numbers_kept(device):
        torch.randn(1)
        card.states = {index: state + 5 for index, state in card.states.items()}
    index = 1 if device.index is None else device.index
    assert torch.equal(card.states[index], before[index])
    assert torch.equal(torch.get_rng_state(), drawn)


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("Could not allocate tensor with 4194304 bytes. There is not enough GPU video memory available!"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError(
        'Error(s) in loading state_dict for LatentDiffusion:\n\tWhile copying the parameter named "x", an '
        "exception occurred : ('CUDA out of memory. Tried to allocate 2.00 GiB',)."
    ),
    raised(ValueError("cannot be read"), torch.cuda.OutOfMemoryError("CUDA out of memory")),
]
OTHER = [
    ValueError("cannot be read"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    KeyError("out of memory"),
    FileNotFoundError("out of memory.safetensors"),
]


@pytest.mark.parametrize("error", [*OF_MEMORY, *OTHER], ids=str)
def test_an_error_of_memory_is_known_by_its_class_its_text_or_its_cause(error: Exception) -> None:
    cause = error.__cause__
    assert cause is None or isinstance(cause, Exception)
    assert accelerator.is_memory_error(raised(error, cause)) == (error in OF_MEMORY)


def test_a_reading_is_the_number() -> None:
    reading = Reading(torch.tensor([2.5]))
    assert reading.arrived and reading.value() == 2.5


@pytest.mark.parametrize("fails", [False, True])
def test_a_stopwatch_counts_what_runs_in_it_and_nothing_else(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(readings, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    watch = Stopwatch(torch.device("cpu"))
    assert watch.seconds == 0
    for _ in range(2):
        with contextlib.suppress(ValueError), watch.running():
            now[0] += 2
            if fails:
                raise ValueError
        now[0] += 5
    assert watch.seconds == 4


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
