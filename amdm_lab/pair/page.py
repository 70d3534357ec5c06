"""The page of a pair: one HTML file that loads nothing from the network; its pictures are in a folder beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ..store import MEMORY_KINDS
from .figures import Figure, WaySummary, efficient
from .subjects import Subject
from .ways import Pair, names_of

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = FOLDER / "page.html", FOLDER / "page.css"
MEGABYTE = 1e6
ITEM = "- "
"""The beginning of a line that is one of a list."""


@dataclass(frozen=True)
class Comparison:
    """Everything that a page shows."""

    pair: Pair
    place: str
    """The drawer's description."""
    subjects: Sequence[Subject]
    rows: Sequence[WaySummary]
    figures: Sequence[Sequence[Figure]]
    """For each subject the figures of its pictures, one for each row."""

    @property
    def with_clip(self) -> bool:
        return self.rows[0].to_main is not None

    @property
    def has_two_prompts(self) -> bool:
        """True if the two models get different prompts."""
        return any(subject.prompt_for_co != subject.prompt for subject in self.subjects)

    @property
    def mixed(self) -> list[WaySummary]:
        """The rows in which two models draw together."""
        return [row for row in self.rows if not row.way.alone]

    def similarities(self, of: WaySummary | Figure) -> dict[str, str]:
        """Return the similarity to each prompt by its heading."""
        if not self.with_clip:
            return {}
        if not self.has_two_prompts:
            return {"to the prompt": _three_digits(of.to_main)}
        return {"to the main prompt": _three_digits(of.to_main), "to the co-model's": _three_digits(of.to_co)}


def page(comparison: Comparison) -> str:
    """Write the whole page."""
    pair, rows = comparison.pair, comparison.rows
    common = [f"{name.replace('_', ' ')} {_shown(value)}" for name, value in pair.common.items() if value != ""]
    best = {row.way.caption for row in efficient(comparison.mixed)}
    cells = [_cells(comparison, row) for row in rows]
    sections = [
        {"subject": subject, "cards": [_card(comparison, *pair) for pair in zip(rows, figures)]}
        for subject, figures in zip(comparison.subjects, comparison.figures)
    ]
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return template.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=" and ".join(names_of(pair.main, pair.co)),
        style=Markup(STYLE.read_text(encoding="utf-8")),
        pair=pair,
        common=", ".join(common),
        place=comparison.place,
        verdict=verdict(comparison),
        item=ITEM,
        heads=["", *cells[0]],
        lines=[
            {"caption": row.way.caption, "best": row.way.caption in best, "cells": of_row.values()}
            for row, of_row in zip(rows, cells)
        ],
        notes=_notes(comparison),
        sections=sections,
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def verdict(comparison: Comparison) -> list[str]:
    """Write in a few lines which settings moved the picture most, and which for the least time."""
    mixed = comparison.mixed
    most = max(mixed, key=lambda row: row.distance)
    main = comparison.rows[0].way.caption
    sentences = [
        f"Farthest from {main}: {most.way.caption}, {_distance(most)} for {_for_time(most)}.",
        "Farthest for its time, from the quickest on; no other moved as far in less:",
        *(f"{ITEM}{row.way.caption}: {_distance(row)} for {_for_time(row)}" for row in efficient(mixed)),
    ]
    if comparison.with_clip and comparison.has_two_prompts:
        nearest = max(mixed, key=lambda row: (row.to_main or 0) + (row.to_co or 0))
        sentences.append(
            f"Nearest to both prompts together, as CLIP sees it: {nearest.way.caption}, "
            f"{_three_digits(nearest.to_main)} to the main model's and "
            f"{_three_digits(nearest.to_co)} to the co-model's."
        )
    return [*sentences, "How far a picture moved does not say whether it is a better one: look at them."]


def _distance(row: WaySummary) -> str:
    if row.features_moved is None:
        return f"{row.moved:.1f} grey levels"
    return f"{row.features_moved:.3f} of CLIP's features ({row.moved:.1f} grey levels)"


def _for_time(row: WaySummary) -> str:
    return f"{row.extra:+.1f} s a picture" if row.cost else "no more time"


def _three_digits(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cells(comparison: Comparison, row: WaySummary) -> dict[str, str]:
    """Return a row's cells by their columns' heads."""
    cells = {
        "seconds": f"{row.seconds:.1f}",
        "beyond the main model's": f"{row.extra:+.1f} s" if row is not comparison.rows[0] else "",
        "evaluations": row.evaluations,
        "co-model, MB": _megabytes(row.memory.co_models),
        "memory, MB": _megabytes(row.memory.total),
        "moved, grey levels": f"{row.moved:.1f}",
    }
    if comparison.with_clip:
        cells |= {"moved, CLIP": _three_digits(row.features_moved), **comparison.similarities(row)}
    return cells


def _megabytes(count: int) -> str:
    return f"{count / MEGABYTE:.0f}" if count else ""


def _notes(comparison: Comparison) -> list[str]:
    kinds = sorted({row.memory.kind for row in comparison.rows})
    memory = " or ".join(MEMORY_KINDS[kind] for kind in kinds)
    notes = [
        f"Medians of {len(comparison.subjects)} pictures each. Seconds are from the request to the picture; loading "
        "for the first picture of a way is not in them, but a refiner's change of checkpoints is. "
        f"Memory: {memory}. Moved: the mean difference from the main model's own picture of the same seed. "
        "A dot marks what moved the picture farthest for its time."
    ]
    if comparison.with_clip:
        notes.append("CLIP's similarity is the cosine of the picture and the prompt, its distance 1 minus that of two.")
    return notes


def _card(comparison: Comparison, row: WaySummary, figure: Figure) -> dict[str, Any]:
    facts = [f"{figure.record.seconds:.1f} s"]
    if row is not comparison.rows[0]:
        facts.append(f"moved {figure.moved:.1f}")
    facts += [f"{value} {head}" for head, value in comparison.similarities(figure).items()]
    file = figure.file
    return {
        "source": f"{file.parent.name}/{file.name}",
        "size": figure.size,
        "caption": row.way.caption,
        "facts": ", ".join(facts),
    }
