"""The table alongside the paper's: instance success and mIoU by level, with intervals, and seconds for a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..statistics import Estimate, difference, mean, share
from ..store import Record, Store
from ..table import markdown
from .benchmark import Entry
from .judge import Verdict, judgement_of
from .published import LEVELS, MIGC_PAGE, PAPER, PublishedRow
from .recipes import Recipe, picture_name
from .segmenter import WholeBox

BASE, MIGC_ROW = "interact", "migc"
ALL = "all"
_HEAD = ["method", *(f"L{level}" for level in LEVELS), ALL]


@dataclass(frozen=True)
class JudgedRow:
    """A recipe's pictures that were judged: entries and their verdicts, in order."""

    recipe: Recipe
    entries: tuple[Entry, ...]
    verdicts: tuple[list[Verdict], ...]
    seconds: float

    def figures(self, level: int | None = None) -> tuple[Estimate, Estimate] | None:
        """Return instance success and mIoU, of one level or of all; None if no picture of it was judged."""
        chosen = [verdicts for entry, verdicts in zip(self.entries, self.verdicts) if level in (None, entry.level)]
        if not chosen:
            return None
        overlap = np.array([sum(verdict.overlap for verdict in verdicts) for verdicts in chosen])
        of = np.array([len(verdicts) for verdicts in chosen])
        return share(_right(chosen), of), mean(overlap, of)

    def all_figures(self) -> dict[str, tuple[Estimate, Estimate] | None]:
        """Return the figures of each level, and of all instances."""
        return {str(level or ALL): self.figures(level) for level in (*LEVELS, None)}


def _right(pictures: Sequence[Sequence[Verdict]]) -> np.ndarray:
    return np.array([sum(verdict.success for verdict in verdicts) for verdicts in pictures])


def judged(store: Store, entries: Sequence[Entry], recipe: Recipe) -> JudgedRow | None:
    """Collect the judgements of a recipe's pictures; None if there are none."""
    judgements = {entry: judgement_of(store, picture_name(recipe, entry), entry) for entry in entries}
    verdicts = {entry: judgement.verdicts for entry, judgement in judgements.items() if judgement}
    if not verdicts:
        return None
    return JudgedRow(recipe, tuple(verdicts), tuple(verdicts.values()), seconds_of(store, entries, recipe))


def seconds_of(store: Store, entries: Sequence[Entry], recipe: Recipe) -> float:
    """Return the mean time of a recipe's pictures, without those that had to load if there are others."""
    records = [record for entry in entries if (record := store.record(picture_name(recipe, entry)))]
    warm = [record.seconds for record in records if not record.fresh]
    return fmean(warm or [record.seconds for record in records])


def report(store: Store, entries: Sequence[Entry], recipes: Sequence[Recipe]) -> tuple[str, dict[str, Any]]:
    """Write the tables in Markdown; return them and their figures."""
    rows = [row for recipe in recipes if (row := judged(store, entries, recipe))]
    published = [*PAPER, *([MIGC_PAGE] if any(row.recipe.name == MIGC_ROW for row in rows) else [])]
    parts = [_circumstances(store, entries, recipes)]
    if rows:
        parts += _tables(rows, published)
    return "\n\n".join(parts) + "\n", {row.recipe.name: _figures(row) for row in rows}


def _tables(rows: Sequence[JudgedRow], published: Sequence[PublishedRow]) -> list[str]:
    return [
        "Instance success in %, with 95 % intervals:",
        markdown([*_HEAD, "pictures"], [_cells(row, 0) for row in rows] + [_published(row, 0) for row in published]),
        "mIoU in %, and the mean time of a picture:",
        markdown([*_HEAD, "seconds"], [_cells(row, 1) for row in rows] + [_published(row, 1) for row in published]),
        *_differences(rows),
    ]


def _cells(row: JudgedRow, which: int) -> list[str]:
    last = f"{row.seconds:.2f}" if which else str(len(row.entries))
    shares = [str(figures[which]) if figures else "" for figures in row.all_figures().values()]
    return [row.recipe.label, *shares, last]


def _published(row: PublishedRow, which: int) -> list[str]:
    levels, total = (row.overlap, row.all_overlap) if which else (row.success, row.all_success)
    last = f"{row.seconds:.2f}" if which and row.seconds else ""
    return [row.label, *(f"{level:g}" for level in levels), f"{total:g}", last]


def _differences(rows: Sequence[JudgedRow]) -> list[str]:
    """Compare each recipe with InteractDiffusion alone, on the entries that both have."""
    base = next((row for row in rows if row.recipe.name == BASE), None)
    lines = []
    for row in rows if base else ():
        assert base is not None
        common = {entry.key for entry in base.entries} & {entry.key for entry in row.entries}
        if row is base or not common:
            continue
        ours, theirs = (
            [verdicts for entry, verdicts in zip(of.entries, of.verdicts) if entry.key in common] for of in (row, base)
        )
        of = np.array([len(verdicts) for verdicts in ours])
        value, low, high = (100 * end for end in difference(_right(ours), _right(theirs), of))
        lines.append(
            f"{row.recipe.label}: {value:+.1f} points of instance success ({low:+.1f} to {high:+.1f}) against "
            f"{base.recipe.label} alone, on the same {len(common)} entries."
        )
    return lines


def _circumstances(store: Store, entries: Sequence[Entry], recipes: Sequence[Recipe]) -> str:
    """Describe where and how the pictures were drawn, and who judged them."""
    pictures = {picture_name(recipe, entry): entry for recipe in recipes for entry in entries}
    records = [record for name in pictures if (record := store.record(name))]
    judgements = [judgement_of(store, name, entry) for name, entry in pictures.items()]
    judges = sorted({judgement.judges for judgement in judgements if judgement})
    facts = [f"{len(records)} pictures of {len(pictures)}", *sorted({_drawn(record) for record in records})]
    facts += [f"judged by {detector} with {segmenter}" for detector, segmenter in judges]
    sentence = "; ".join(facts) + "."
    if any(segmenter == WholeBox.name for _, segmenter in judges):
        sentence += (
            " Colours were counted in whole boxes, where the published judge cuts the things out: "
            "name --segmenter for figures that stand beside the published ones."
        )
    return sentence


def _drawn(record: Record) -> str:
    order = record.order
    return (
        f"{order['checkpoint']}, {order['steps']} steps, CFG {order['cfg_scale']:g}, "
        f"{order['width']}x{order['height']}, by {record.place}"
    )


def _figures(row: JudgedRow) -> dict[str, Any]:
    figures = {level: pair for level, pair in row.all_figures().items() if pair}
    return {
        "label": row.recipe.label,
        "pictures": len(row.entries),
        "seconds": round(row.seconds, 3),
        "success": {level: success.to_dict() for level, (success, _) in figures.items()},
        "mIoU": {level: overlap.to_dict() for level, (_, overlap) in figures.items()},
    }
