"""Synchronisations: how often the program waits for a GPU, by the code that causes it."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

PROJECT, SAMPLER, MODELS = "AMDM", "sampler", "models"
MESSAGE = "synchronizing CUDA operation"
"""Part of the warning that torch gives for each of them."""
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {_ROOT / "lib_amdm", _ROOT / "amdm_lab"}
_MODELS = ("diffusers", "transformers", "random_unets.py", "model.py")
"""Files and folders with the code of models."""


class Waits:
    """Counts synchronisations by their owners, between `start` and `stop`.

    torch reports the waits in its operations. Waiting for an event is not one of them.
    """

    def __init__(self, device: torch.device) -> None:
        self.counts: Counter[str] = Counter()
        self.reports = device.type == "cuda"

    def start(self) -> None:
        if self.reports:
            torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        if self.reports:
            torch.cuda.set_sync_debug_mode("default")

    def by_step(self, steps: int) -> dict[str, float] | None:
        """Return how many there were in each step; None if the device does not report waits."""
        return {of: self.counts[of] / steps for of in (PROJECT, SAMPLER, MODELS)} if self.reports else None

    @contextmanager
    def counting(self) -> Iterator[Waits]:
        """Make a context in which warnings of them are counted instead of shown."""
        with warnings.catch_warnings():
            shown = warnings.showwarning

            def show(message: Any, *more: Any, **further: Any) -> None:
                if MESSAGE in str(message):
                    self.counts[owner_of(sys._getframe(1))] += 1
                else:
                    shown(message, *more, **further)

            warnings.simplefilter("always")
            warnings.showwarning = show
            try:
                yield self
            finally:
                self.stop()


def owner_of(frame: FrameType | None) -> str:
    """Return the owner of the innermost frame that belongs to the project, to k-diffusion or to a model."""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.name == "waits.py" and file.parent == Path(__file__).parent:
            frame = frame.f_back
            continue
        if set(_MODELS) & {file.name, *(parent.name for parent in file.parents)} or file.name == "external.py":
            return MODELS
        if file.parent.name == "k_diffusion":
            return SAMPLER
        if _PACKAGES & {*file.resolve().parents}:
            return PROJECT
        frame = frame.f_back
    return SAMPLER
