"""The table: a row for each place, size and number of co-models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..table import markdown
from .waits import MODELS, PROJECT, SAMPLER

NONE = "–"


@dataclass(frozen=True)
class Measurement:
    """A row of the table."""

    place: str
    models: str
    co_models: int
    evaluations: str
    seconds: float
    outside: float | None = None
    """Seconds of a mixed step outside the evaluations, beyond those of a plain step."""
    waits: Mapping[str, float] | None = None
    """Waits in a mixed step, by whose code waits."""
    peak: int | None = None
    placed: str = ""
    """The device and dtype of the weights."""
    second: str = ""
    """The files that the first and a second picture read."""
    leaving: str = ""
    """The result of the co-models' leaving."""

    def cells(self) -> dict[str, str]:
        """Return the cells by their columns' heads."""
        return {
            "place": self.place,
            "models": self.models,
            "co-models": str(self.co_models),
            "evaluations": self.evaluations,
            "seconds": f"{self.seconds:.2f}",
            "outside them, ms a mixed step": NONE if self.outside is None else f"{1000 * self.outside:.1f}",
            "waits a mixed step: AMDM, sampler, models": _waits(self.waits),
            "peak, MB": NONE if self.peak is None else megabytes(self.peak),
            "weights": self.placed or NONE,
            "second picture": self.second or NONE,
            "co-models leave": self.leaving or NONE,
        }


def _waits(waits: Mapping[str, float] | None) -> str:
    return NONE if waits is None else ", ".join(f"{waits[of]:g}" for of in (PROJECT, SAMPLER, MODELS))


def megabytes(count: int) -> str:
    return f"{count / 1e6:.0f}"


def freed(before: int | None, after: int | None) -> str:
    """Return a part of a sentence on the memory freed; "" if the device does not report it."""
    return "" if before is None or after is None else f", {megabytes(before - after)} MB freed"


def table(rows: Sequence[Measurement]) -> str:
    """Write the rows in Markdown."""
    cells = [row.cells() for row in rows]
    return markdown(list(cells[0]), [list(of_row.values()) for of_row in cells])
