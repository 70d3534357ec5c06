"""`lib_amdm.core.sampling.amdm` around bare UNets: what a mixed step costs, and what it leaves on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lib_amdm.core.arguments import CoRun
from lib_amdm.core.sampling import amdm

from ..studio.k_diffusion_parts import sampling as k_sampling
from .random_unets import LATENT, TINY_LATENT, Guided
from .table import Measurement, freed
from .waits import Waits
from .watching import Observed, finish, held, peak, placed, quickest, start_peak, watched

STEPS, MIXED, EVALUATIONS = 20, 10, 4
TURNS, TINY_TURNS = 3, 1
PLACE = "the sampler alone"


class Rig:
    """UNets of one kind, the main one first, and the latent that they start from."""

    def __init__(self, kind: str, device: torch.device, dtype: torch.dtype, tiny: bool) -> None:
        self.kind, self.device, self.dtype, self.tiny = kind, device, dtype, tiny
        self.models: list[Guided] = []
        self.add()
        side = TINY_LATENT if tiny else LATENT[kind]
        self.sigmas = self.models[0].wrap.get_sigmas(STEPS)
        noise = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0))
        self.x = noise.to(device) * self.sigmas[0]

    @property
    def unets(self) -> list[nn.Module]:
        return [model.unet for model in self.models]

    def add(self) -> None:
        """Load a further model."""
        self.models.append(Guided(self.kind, len(self.models), self.device, self.dtype, self.tiny))

    def draw(self, mixing: bool, waits: Waits, on_mixed: Callable[[], None] | None = None) -> Tensor:
        """Sample one latent, with all co-models if `mixing`. on_mixed: called after the last mixed step."""
        main, *others = self.models

        def after_step(done: int, steps: int) -> None:
            if done == steps:
                waits.stop()
                if on_mixed:
                    on_mixed()

        sample = k_sampling.sample_euler
        if mixing:
            co_runs = [CoRun(other, 0.5 / len(others), on_nan=_ignore) for other in others]
            sample = amdm(sample, co_runs, steps=MIXED, evaluations=EVALUATIONS, on_mixed=after_step)
        latent: Tensor = sample(main, self.x, self.sigmas, disable=True)
        return latent


def _ignore() -> None:
    """Go on: random weights may overflow in half precision, and the answer then counts as the main model's own."""


@torch.no_grad()
def rows(kind: str, most: int, device: torch.device, dtype: torch.dtype, tiny: bool = False) -> Iterator[Measurement]:
    """Yield a row for the main model alone, and for each number of co-models up to `most`."""
    rig = Rig(kind, device, dtype, tiny)
    turns = TINY_TURNS if tiny else TURNS

    def measure(count: int, **further: Any) -> tuple[Observed, Measurement]:
        # one picture first that is not counted
        rig.draw(bool(count), Waits(device))
        observed = quickest(lambda: rig.draw(bool(count), Waits(device)), rig.unets, device, turns)
        return observed, Measurement(
            PLACE,
            kind,
            count,
            " + ".join(map(str, observed.evaluations)),
            observed.seconds,
            placed=placed(rig.unets, observed.inputs),
            **further,
        )

    plain, row = measure(0)
    start_peak(device)
    rig.draw(False, Waits(device))
    yield replace(row, peak=peak(device))
    for count in range(1, most + 1):
        rig.add()
        start_peak(device)
        observed, row = measure(count)
        waits = Waits(device)
        with waits.counting(), watched(rig.unets, device, waits.start):
            rig.draw(True, waits)
        yield replace(
            row,
            outside=(observed.outside - plain.outside) / MIXED,
            waits=waits.by_step(MIXED),
            peak=peak(device),
            leaving="" if count < most else _leaving(rig),
        )


def _leaving(rig: Rig) -> str:
    """Draw a picture whose co-models leave the device after the last mixed step; return what became of it."""
    whole = rig.draw(True, Waits(rig.device))
    memory = []

    def leave() -> None:
        finish(rig.device)
        before = held(rig.device)
        for unet in rig.unets[1:]:
            # an evaluation of it would fail from here on
            unet.to("meta")
        memory.append(freed(before, held(rig.device)))

    latent = rig.draw(True, Waits(rig.device), leave)
    same = "the same picture" if torch.equal(latent, whole) else f"off by {(latent - whole).abs().max().item():.1e}"
    return f"after step {MIXED}: {same}{memory[0]}"
