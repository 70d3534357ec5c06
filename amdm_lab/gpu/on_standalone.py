"""Whole pictures without a WebUI: checkpoints in files, their text encoders, the pool, a second picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib_amdm.settings import Settings

from ..studio.host import Job, Result, Standalone
from .loop import EVALUATIONS, MIXED, STEPS, TINY_TURNS, TURNS
from .opened import opened
from .table import Row, megabytes
from .waits import Waits
from .watching import Seen, held, peak, placed, start_peak, watched

PLACE = "no WebUI, whole pictures"
PIXELS, TINY_PIXELS = 512, 64
PROMPT = "a red square beside a blue circle"


class _Bench:
    """A host, and the one picture that it draws."""

    def __init__(
        self, folder: Path, names: Sequence[str], device: torch.device, dtype: torch.dtype, tiny: bool
    ) -> None:
        self.folder, self.names, self.device = folder, names, device
        self.host = Standalone(folder, device, dtype)
        self.side, self.turns = (TINY_PIXELS, TINY_TURNS) if tiny else (PIXELS, TURNS)

    def draw(self, count: int, waits: Waits) -> Result:
        """Draw it with as many co-models."""
        slots: list[dict[str, Any]] = [{"checkpoint": name, "gamma": 0.5 / count} for name in self.names[1 : 1 + count]]
        settings = {"enabled": True, "steps": MIXED, "evaluations": EVALUATIONS, "co_models": slots}
        job = Job(self.names[0], [PROMPT], [1], steps=STEPS, width=self.side, height=self.side)

        def stepped(step: int, steps: int) -> None:
            if step == MIXED:
                waits.stop()

        return self.host.generate(job, Settings.from_dict(settings), stepped)

    def networks(self, count: int) -> list[torch.nn.Module]:
        """The UNets of the main model and as many co-models, from the pool."""
        return [self.host.model(name).unet for name in self.names[: 1 + count]]

    def quickest(self, count: int) -> Seen:
        """Return what was seen of the quickest of a few pictures."""
        found = []
        for _ in range(self.turns):
            with watched(self.networks(count), self.device) as seen:
                self.draw(count, Waits(self.device))
            found.append(seen)
        return min(found, key=lambda each: each.seconds)


def rows(
    folder: Path, names: Sequence[str], device: torch.device, dtype: torch.dtype, tiny: bool = False
) -> Iterator[Row]:
    """Yield a row for the first checkpoint alone, and for each number of the others beside it."""
    bench = _Bench(folder, names, device, dtype, tiny)
    plain: Seen | None = None
    for count in range(len(names)):
        start_peak(device)
        with opened(folder) as first:
            bench.draw(count, Waits(device))
        waits = Waits(device)
        with waits.heard(), opened(folder) as second, watched(bench.networks(count), device, waits.start):
            bench.draw(count, waits)
        highest = peak(device)
        seen = bench.quickest(count)
        yield Row(
            PLACE,
            "sd15",
            count,
            " + ".join(map(str, seen.evaluations)),
            seen.seconds,
            None if plain is None else (seen.outside - plain.outside) / MIXED,
            waits.each(MIXED) if count else None,
            highest,
            placed(bench.networks(count), seen.inputs),
            f"{len(set(first))} files opened, then {len(set(second))}",
            _unloaded(bench) if count == len(names) - 1 else "",
        )
        plain = plain or seen


def _unloaded(bench: _Bench) -> str:
    """Say what is freed once everything is taken out of memory."""
    before = held(bench.device)
    entries = bench.host.unload()
    after = held(bench.device)
    size = sum(entry.size for entry in entries)
    freed = f", {megabytes(before - after)} MB freed" if before is not None and after is not None else ""
    return f"unloading: {len(entries)} checkpoints of {megabytes(size)} MB{freed}"
