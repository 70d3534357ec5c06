"""The table: a row for each place, size and number of co-models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .waits import MODELS, PROJECT, SAMPLER

NONE = "–"
HEADS = (
    "place",
    "models",
    "co-models",
    "evaluations",
    "seconds",
    "outside them, ms a mixed step",
    "waits a mixed step: AMDM, sampler, models",
    "peak, MB",
    "weights",
    "second picture",
    "co-models leave",
)


@dataclass(frozen=True)
class Row:
    """A measurement.

    outside: seconds a mixed step beyond evaluations and what a plain step takes beside its own. waits: in a mixed step,
    by whose. second: what a second picture read. leaving: what came of the co-models' leaving.
    """

    place: str
    models: str
    co_models: int
    evaluations: str
    seconds: float
    outside: float | None = None
    waits: Mapping[str, float] | None = None
    peak: int | None = None
    placed: str = ""
    second: str = ""
    leaving: str = ""

    def cells(self) -> list[str]:
        return [
            self.place,
            self.models,
            str(self.co_models),
            self.evaluations,
            f"{self.seconds:.2f}",
            NONE if self.outside is None else f"{1000 * self.outside:.1f}",
            _waits(self.waits),
            NONE if self.peak is None else megabytes(self.peak),
            self.placed or NONE,
            self.second or NONE,
            self.leaving or NONE,
        ]


def _waits(waits: Mapping[str, float] | None) -> str:
    return NONE if waits is None else ", ".join(f"{waits[of]:g}" for of in (PROJECT, SAMPLER, MODELS))


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}"


def table(rows: Sequence[Row]) -> str:
    """Write the rows in Markdown."""
    lines = [HEADS, ["---"] * len(HEADS), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
