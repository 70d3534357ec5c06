"""Synchronisations: how often the program is made to wait for a GPU, by whose code asked for it."""

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
"""Of the warning that torch gives for each of them."""
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = {_ROOT / "lib_amdm", _ROOT / "amdm_lab"}
_MODELS = ("diffusers", "transformers", "random_unets.py", "model.py")
"""Files and folders whose code is a model's own."""


class Waits:
    """Counts synchronisations by whose they are, between `start` and `stop`.

    torch finds those of its own operations; an event that is waited for is none of them.
    """

    def __init__(self, device: torch.device) -> None:
        self.counts: Counter[str] = Counter()
        self.follows = device.type == "cuda"

    def start(self) -> None:
        if self.follows:
            torch.cuda.set_sync_debug_mode("warn")

    def stop(self) -> None:
        if self.follows:
            torch.cuda.set_sync_debug_mode("default")

    def each(self, steps: int) -> dict[str, float] | None:
        """Return how many there were in each step; None where the device cannot be followed."""
        return {of: self.counts[of] / steps for of in (PROJECT, SAMPLER, MODELS)} if self.follows else None

    @contextmanager
    def heard(self) -> Iterator[Waits]:
        """A context in which warnings of them are counted, and not shown."""
        with warnings.catch_warnings():
            shown = warnings.showwarning

            def show(message: Any, *more: Any, **further: Any) -> None:
                if MESSAGE in str(message):
                    self.counts[whose(sys._getframe(1))] += 1
                else:
                    shown(message, *more, **further)

            warnings.simplefilter("always")
            warnings.showwarning = show
            try:
                yield self
            finally:
                self.stop()


def whose(frame: FrameType | None) -> str:
    """Return whose code is at work: that of the innermost frame that is the project's, k-diffusion's or a model's."""
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
