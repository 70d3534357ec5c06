"""`lib_amdm.core.sampling.amdm` around bare UNets: what a mixed step takes of the device, and what it leaves there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lib_amdm.core.arguments import CoRun
from lib_amdm.core.sampling import amdm

from ..studio.k_diffusion_parts import sampling as k_sampling
from .random_unets import LATENT, TINY_LATENT, Guided
from .table import Row, megabytes
from .waits import Waits
from .watching import Seen, finish, held, peak, placed, start_peak, watched

STEPS, MIXED, EVALUATIONS = 20, 10, 4
TURNS, TINY_TURNS = 3, 1
PLACE = "the sampler alone"


@dataclass
class Bench:
    """UNets of one kind, the main one first, and the latent that they start from."""

    kind: str
    device: torch.device
    dtype: torch.dtype
    tiny: bool

    def __post_init__(self) -> None:
        self.models: list[Guided] = []
        self.add()
        side = TINY_LATENT if self.tiny else LATENT[self.kind]
        self.sigmas = self.models[0].wrap.get_sigmas(STEPS)
        noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
        self.x = noise.to(self.device) * self.sigmas[0]

    def add(self) -> None:
        """Load a further model."""
        self.models.append(Guided(self.kind, len(self.models), self.device, self.dtype, self.tiny))

    def draw(self, mixing: bool, waits: Waits, on_mixed: Callable[[int, int], None] | None = None) -> Tensor:
        """Sample one latent, with all co-models where `mixing`."""
        main, *others = self.models

        def mixed(done: int, steps: int) -> None:
            if done == steps:
                waits.stop()
                if on_mixed:
                    on_mixed(done, steps)

        co_runs = [CoRun(other, 0.5 / len(others), on_nan=_ignore) for other in others]
        sample = amdm(k_sampling.sample_euler, co_runs, steps=MIXED, evaluations=EVALUATIONS, on_mixed=mixed)
        found: Tensor = (sample if mixing else k_sampling.sample_euler)(main, self.x, self.sigmas, disable=True)
        return found


def _ignore() -> None:
    """Go on: random weights may overflow in half precision, and the answer then counts as the main model's own."""


@torch.no_grad()
def rows(kind: str, most: int, device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Iterator[Row]:
    """Yield a row for the main model alone, and for each number of co-models up to `most`."""
    bench = Bench(kind, device, dtype, tiny)
    plain = _fastest(bench, mixing=False)
    start_peak(device)
    bench.draw(False, Waits(device))
    yield _row(bench, 0, plain, peak=peak(device))
    for count in range(1, most + 1):
        bench.add()
        start_peak(device)
        waits = Waits(device)
        seen = _fastest(bench, mixing=True)
        with waits.heard(), watched([model.unet for model in bench.models], device, waits.start):
            bench.draw(True, waits)
        row = _row(
            bench,
            count,
            seen,
            outside=(seen.outside - plain.outside) / MIXED,
            waits=waits.each(MIXED),
            peak=peak(device),
        )
        yield row if count < most else replace(row, leaving=_leaving(bench))


def _fastest(bench: Bench, mixing: bool) -> Seen:
    """Return the quickest of a few pictures, after one that is not counted."""
    found = []
    for _ in range(1 + (TINY_TURNS if bench.tiny else TURNS)):
        with watched([model.unet for model in bench.models], bench.device) as seen:
            bench.draw(mixing, Waits(bench.device))
        found.append(seen)
    return min(found[1:], key=lambda each: each.seconds)


def _row(bench: Bench, count: int, seen: Seen, **further: object) -> Row:
    where = placed([model.unet for model in bench.models], seen.inputs)
    evaluations = " + ".join(map(str, seen.evaluations))
    return Row(PLACE, bench.kind, count, evaluations, seen.seconds, placed=where, **further)  # type: ignore[arg-type]


def _leaving(bench: Bench) -> str:
    """Say what became of a picture whose co-models left the device after the last mixed step."""
    whole = bench.draw(True, Waits(bench.device))
    freed: list[int] = []

    def leave(done: int, steps: int) -> None:
        finish(bench.device)
        before = held(bench.device)
        for model in bench.models[1:]:
            # an evaluation of one would now fail
            model.unet.to("meta")
        after = held(bench.device)
        freed.append((before or 0) - (after or 0))

    found = bench.draw(True, Waits(bench.device), leave)
    same = "the same picture" if torch.equal(found, whole) else f"off by {(found - whole).abs().max().item():.1e}"
    memory = f"{megabytes(freed[0])} MB freed, " if bench.device.type == "cuda" else ""
    return f"after step {MIXED}: {memory}{same}"
