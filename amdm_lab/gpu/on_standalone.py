"""Whole pictures without a WebUI: checkpoints in files, their text encoders, the pool, a second picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_amdm.settings import Settings

from ..studio.host import Job, Standalone
from .loop import EVALUATIONS, MIXED, STEPS, TINY_TURNS, TURNS
from .table import Measurement, freed, megabytes
from .waits import Waits
from .watching import Observed, held, opened_files, peak, placed, quickest, start_peak, watched

PLACE = "no WebUI, whole pictures"
PIXELS, TINY_PIXELS = 512, 64
PROMPT = "a red square beside a blue circle"


def settings_of(co_models: Sequence[str]) -> dict[str, Any]:
    """Return the API's settings for these co-models."""
    slots = [{"checkpoint": name, "gamma": 0.5 / len(co_models)} for name in co_models]
    return {"enabled": True, "steps": MIXED, "evaluations": EVALUATIONS, "co_models": slots}


def rows(
    folder: Path, names: Sequence[str], device: torch.device, dtype: torch.dtype, tiny: bool = False
) -> Iterator[Measurement]:
    """Yield a row for the first checkpoint alone, and for each number of the others with it."""
    host = Standalone(folder, device, dtype)
    side, turns = (TINY_PIXELS, TINY_TURNS) if tiny else (PIXELS, TURNS)
    job = Job(names[0], [PROMPT], [1], steps=STEPS, width=side, height=side)
    plain: Observed | None = None
    for count in range(len(names)):
        settings = Settings.from_dict(settings_of(names[1 : 1 + count]))

        def draw(waits: Waits, settings: Settings = settings) -> None:
            host.generate(job, settings, lambda step, _: waits.stop() if step == MIXED else None)

        def networks(count: int = count) -> list[nn.Module]:
            return [host.model(name).unet for name in names[: 1 + count]]

        start_peak(device)
        with opened_files(folder) as first:
            draw(Waits(device))
        waits = Waits(device)
        with waits.counting(), opened_files(folder) as second, watched(networks(), device, waits.start):
            draw(waits)
        highest = peak(device)
        observed = quickest(lambda draw=draw: draw(Waits(device)), networks(), device, turns)  # type: ignore[misc]
        yield Measurement(
            PLACE,
            "sd15",
            count,
            " + ".join(map(str, observed.evaluations)),
            observed.seconds,
            None if plain is None else (observed.outside - plain.outside) / MIXED,
            waits.by_step(MIXED) if count else None,
            highest,
            placed(networks(), observed.inputs),
            f"{len(set(first))} files opened, then {len(set(second))}",
            _unload(host) if count == len(names) - 1 else "",
        )
        plain = plain or observed


def _unload(host: Standalone) -> str:
    """Unload everything; return a part of a sentence on what that frees."""
    before = held(host.device)
    entries = host.unload()
    size = sum(entry.size for entry in entries)
    return f"unloading: {len(entries)} checkpoints of {megabytes(size)} MB{freed(before, held(host.device))}"
