"""The answers of `lib_amdm.core.accelerator` about every kind of device that a WebUI hands over, under any torch.

A WebUI's own Python has no pytest, so it runs `python -m tests.webui.accelerator_answers`, which prints the answers as
JSON: behind a rehearsed card, where torch.cuda's own functions run, and for the other kinds as this machine has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch

from lib_amdm.core import accelerator
from lib_amdm.core.readings import Reading, Stopwatch

from .card import MEMORY, SCRIPT, present

CUDA = ("cuda", "cuda:0")
OTHERS = ("cpu", "mps", "xpu", "xpu:0", "privateuseone", "privateuseone:0", "meta")
TOTAL = 1 << 26


def _free(device: torch.device) -> Any:
    free = accelerator.free_memory(device)
    # what torch holds and does not use can be had too; what other code left on the card cannot
    held = torch.zeros(1 << 20, device=device) if free is not None else None
    del held
    return free is not None and free == accelerator.free_memory(device) == SCRIPT.total - MEMORY.live


def _numbers_kept(device: torch.device) -> bool:
    """Return True if numbers that are drawn in a context are drawn again behind it, on the CPU and on the device."""

    def drawn() -> list[float]:
        there = [torch.rand(1, device=device).item()] if device.type == "cuda" else []
        return [torch.rand(1).item(), *there]

    with accelerator.random_numbers_kept(device):
        first = drawn()
    return drawn() == first


def _seconds(device: torch.device) -> bool:
    watch = Stopwatch(device)
    with watch.running():
        torch.ones(2)
    return watch.seconds is not None


def _read(device: torch.device) -> float:
    """A number that is sent off from the device, where it has an event for that."""
    reading = Reading(torch.full((1,), 2.5, device=device if device.type == "cuda" else "cpu"))
    value: float = reading.value()
    return value if reading.arrived else 0.0


QUESTIONS: dict[str, Callable[[torch.device], Any]] = {
    "same as itself": lambda device: accelerator.same_place(device, torch.device(str(device))),
    "same as its kind": lambda device: accelerator.same_place(torch.device(device.type), device),
    "same as the CPU": lambda device: accelerator.same_place(device, torch.device("cpu")),
    "knows its free memory": _free,
    "has a random state": lambda device: accelerator.random_state(device) is not None,
    "random numbers are kept": _numbers_kept,
    "counts seconds": _seconds,
    "number read": _read,
}
TRUE_OF_ALL = {"same as itself": True, "same as its kind": True, "random numbers are kept": True, "number read": 2.5}


def expected(kind: str) -> dict[str, Any]:
    """The answers about a kind of device: CUDA's is there, and of the others the CPU alone."""
    cuda, cpu = kind in CUDA, kind == "cpu"
    known = {"knows its free memory": cuda, "has a random state": cuda, "counts seconds": cuda or cpu}
    return {**TRUE_OF_ALL, **known, "same as the CPU": cpu}


def answers(kind: str) -> dict[str, Any]:
    """The answers about a kind of device; an error in an answer's place where a question fails."""
    found: dict[str, Any] = {}
    for name, ask in QUESTIONS.items():
        try:
            found[name] = ask(torch.device(kind))
        except Exception as error:
            found[name] = repr(error)
    return found


def all_answers() -> dict[str, dict[str, Any]]:
    with present(total=TOTAL):
        behind_a_card = {kind: answers(kind) for kind in CUDA}
    return {**behind_a_card, **{kind: answers(kind) for kind in OTHERS}}


if __name__ == "__main__":
    print(json.dumps({"torch": torch.__version__, "answers": all_answers()}))
