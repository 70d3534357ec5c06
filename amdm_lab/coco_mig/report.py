"""The table beside the paper's: instance success and mIoU by level, with intervals, and seconds for a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ..shapes.scores import Z95, Share, share
from .benchmark import Entry
from .judge import Verdict, judges_of, verdicts_of
from .methods import Method
from .published import LEVELS, MIGC_PAGE, PAPER, PublishedRow
from .runner import Folder, Record
from .segmenter import WholeBox

BASE, MIGC_ROW = "interact", "migc"
ALL = "all"
_NO_SPREAD = 1e-18
"""A variance below it is rounding."""
_HEAD = ["method", *(f"L{level}" for level in LEVELS), ALL]


@dataclass(frozen=True)
class Judged:
    """A method's pictures that were judged: by their entries' keys, in order."""

    method: Method
    entries: tuple[Entry, ...]
    verdicts: tuple[list[Verdict], ...]
    seconds: float

    def counts(self, level: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count by picture, of one level or of all: instances that are right, the sum of overlaps, and instances."""
        chosen = [seen for entry, seen in zip(self.entries, self.verdicts) if level in (None, entry.level)]
        right = np.array([sum(verdict.success for verdict in seen) for seen in chosen])
        overlap = np.array([sum(verdict.overlap for verdict in seen) for seen in chosen])
        return right, overlap, np.array([len(seen) for seen in chosen])

    def figures(self, level: int | None = None) -> tuple[Share, Share] | None:
        """Return instance success and mIoU; None where no picture of the level was judged."""
        right, overlap, of = self.counts(level)
        return (share(right, of), mean_overlap(overlap, of)) if len(of) else None


def mean_overlap(overlap: np.ndarray, of: np.ndarray) -> Share:
    """Return sum(overlap) / sum(of) over pictures with a 95 % interval that takes a picture's instances together.

    The interval is the linearised ratio's; where all pictures are alike, it is that of as many yes-or-no answers.
    """
    mean = float(overlap.sum() / of.sum())
    spread = _spread(_influences(overlap, of))
    if spread < _NO_SPREAD:
        return share(overlap, of)
    half = Z95 * math.sqrt(spread)
    return Share(mean, max(0.0, mean - half), min(1.0, mean + half))


def difference(one: np.ndarray, other: np.ndarray, of: np.ndarray) -> tuple[float, float, float]:
    """Return the difference of two shares of the same pictures' instances, and its 95 % interval.

    The interval is the linearised difference's; where no picture shows one, it is Newcombe's, of the two shares' own.
    """
    first, second = share(one, of), share(other, of)
    value = first.value - second.value
    spread = _spread(_influences(one, of) - _influences(other, of))
    if spread < _NO_SPREAD:
        below = math.hypot(first.value - first.low, second.high - second.value)
        above = math.hypot(first.high - first.value, second.value - second.low)
    else:
        below = above = Z95 * math.sqrt(spread)
    return value, value - below, value + above


def _influences(right: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Return how far each picture takes sum(right) / sum(of) from its mean."""
    return (right - right.sum() / of.sum() * of) / of.sum()


def _spread(influences: np.ndarray) -> float:
    pictures = len(influences)
    return float((influences**2).sum()) * pictures / max(1, pictures - 1)


def judged(folder: Folder, entries: Sequence[Entry], method: Method) -> Judged | None:
    """Collect what was judged of a method's pictures; None where nothing was."""
    seen = [(entry, verdicts_of(folder, method.name, entry)) for entry in entries]
    found = [(entry, verdicts) for entry, verdicts in seen if verdicts is not None]
    if not found:
        return None
    chosen, verdicts = zip(*found)
    return Judged(method, chosen, verdicts, seconds_of(folder, entries, method))


def seconds_of(folder: Folder, entries: Sequence[Entry], method: Method) -> float:
    """Return the mean time of a method's pictures, without those that had to load where there are others."""
    records = [record for entry in entries if (record := folder.record(method.name, entry.key))]
    warm = [record.seconds for record in records if not record.fresh]
    return fmean(warm or [record.seconds for record in records])


def report(folder: Folder, entries: Sequence[Entry], methods: Sequence[Method]) -> tuple[str, dict[str, Any]]:
    """Write the tables in Markdown, and what they are made of."""
    rows = [row for method in methods if (row := judged(folder, entries, method))]
    published = [*PAPER, *([MIGC_PAGE] if any(row.method.name == MIGC_ROW for row in rows) else [])]
    parts = [_circumstances(folder, entries, methods)]
    if rows:
        parts += _tables(rows, published)
    return "\n\n".join(parts) + "\n", {row.method.name: _figures(row) for row in rows}


def _tables(rows: Sequence[Judged], published: Sequence[PublishedRow]) -> list[str]:
    return [
        "Instance success in %, with 95 % intervals:",
        _table([*_HEAD, "pictures"], [_cells(row, 0) for row in rows] + [_published(each, 0) for each in published]),
        "mIoU in %, and the mean time of a picture:",
        _table([*_HEAD, "seconds"], [_cells(row, 1) for row in rows] + [_published(each, 1) for each in published]),
        *_differences(rows),
    ]


def _cells(row: Judged, which: int) -> list[str]:
    found = [row.figures(level) for level in (*LEVELS, None)]
    last = f"{row.seconds:.2f}" if which else str(len(row.entries))
    return [row.method.label, *(str(each[which]) if each else "" for each in found), last]


def _published(row: PublishedRow, which: int) -> list[str]:
    levels, total = (row.overlap, row.all_overlap) if which else (row.success, row.all_success)
    last = f"{row.seconds:.2f}" if which and row.seconds else ""
    return [row.label, *(f"{each:g}" for each in levels), f"{total:g}", last]


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines))


def _differences(rows: Sequence[Judged]) -> list[str]:
    """Say for each method how it differs from InteractDiffusion alone on the entries that both have."""
    base = next((row for row in rows if row.method.name == BASE), None)
    lines = []
    for row in rows if base else ():
        assert base is not None
        common = {entry.key for entry in base.entries} & {entry.key for entry in row.entries}
        if row is base or not common:
            continue
        (one, of), (other, _) = (_success(each, common) for each in (row, base))
        value, low, high = (100 * each for each in difference(one, other, of))
        lines.append(
            f"{row.method.label}: {value:+.1f} points of instance success ({low:+.1f} to {high:+.1f}) against "
            f"{base.method.label} alone, on the same {len(common)} entries."
        )
    return lines


def _success(row: Judged, keys: set[str]) -> tuple[np.ndarray, np.ndarray]:
    seen = [verdicts for entry, verdicts in zip(row.entries, row.verdicts) if entry.key in keys]
    return np.array([sum(v.success for v in each) for each in seen]), np.array([len(each) for each in seen])


def _circumstances(folder: Folder, entries: Sequence[Entry], methods: Sequence[Method]) -> str:
    """Say where and how the pictures were drawn, and who judged them."""
    files = [(method.name, entry) for method in methods for entry in entries]
    records = [record for name, entry in files if (record := folder.record(name, entry.key))]
    judges = sorted({judges_of(folder, name, entry) for name, entry in files} - {()})
    facts = [f"{len(records)} pictures of {len(files)}", *sorted({_drawn(record) for record in records})]
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


def _figures(row: Judged) -> dict[str, Any]:
    found = {str(level or ALL): row.figures(level) for level in (*LEVELS, None)}
    return {
        "label": row.method.label,
        "pictures": len(row.entries),
        "seconds": round(row.seconds, 3),
        "success": {level: each[0].to_dict() for level, each in found.items() if each},
        "mIoU": {level: each[1].to_dict() for level, each in found.items() if each},
    }
