"""Phrases in boxes, and who does what to whom: what the layout adapters are told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import AdapterError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the picture's width and height, origin top left."""

EXAMPLE = '{"phrase": "a red ball", "box": [0.1, 0.2, 0.5, 0.6]}'
EXAMPLE_ACTION = '{"subject": 0, "action": "kicking", "object": 1}'


@dataclass(frozen=True)
class Region:
    """A thing in the picture and where it is."""

    phrase: str
    box: Box


@dataclass(frozen=True)
class Interaction:
    """`subject` does `action` to `object`; both are numbers of regions, counted from 0."""

    subject: int
    action: str
    object: int


@dataclass(frozen=True)
class Layout:
    """What stands where in one picture."""

    regions: tuple[Region, ...] = ()
    interactions: tuple[Interaction, ...] = ()


def parse_layout(rows: Any) -> Layout:
    """The layout that a list of rows (as JSON gives them) says; AdapterError naming the row and the remedy.

    A row is {"phrase": str, "box": [x0, y0, x1, y1]} with 0 <= x0 < x1 <= 1 and the same for y, or {"subject": i,
    "action": str, "object": j}, where i and j count the phrase rows from 0.
    """
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise AdapterError(f"The layout must be a list of rows such as {EXAMPLE}.")
    regions, actions = [], []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise AdapterError(f"Row {number} of the layout is no object; write {EXAMPLE} or {EXAMPLE_ACTION}.")
        if set(row) == {"phrase", "box"}:
            regions.append(Region(_words(row["phrase"], "phrase", number), _box(row["box"], number)))
        elif set(row) == {"subject", "action", "object"}:
            actions.append((number, row))
        else:
            raise AdapterError(
                f"Row {number} of the layout has the keys {', '.join(map(str, row)) or 'of nothing'}; "
                f"write {EXAMPLE} or {EXAMPLE_ACTION}."
            )
    interactions = [
        Interaction(
            _region(row["subject"], "subject", len(regions), number),
            _words(row["action"], "action", number),
            _region(row["object"], "object", len(regions), number),
        )
        for number, row in actions
    ]
    return Layout(tuple(regions), tuple(interactions))


def rows_of(layout: Layout) -> list[dict[str, Any]]:
    """The rows that `parse_layout` makes this layout of."""
    regions = [{"phrase": region.phrase, "box": list(region.box)} for region in layout.regions]
    return regions + [
        {"subject": each.subject, "action": each.action, "object": each.object} for each in layout.interactions
    ]


def _words(value: Any, key: str, number: int) -> str:
    if not isinstance(value, str) or not value.strip():
        raise AdapterError(f"Row {number} of the layout has no words as its {key}; write {key} as a text in quotes.")
    return value.strip()


def _box(value: Any, number: int) -> Box:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or len(value) != 4:
        raise AdapterError(f"The box in row {number} of the layout must be four numbers: [x0, y0, x1, y1].")
    if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) for x in value):
        raise AdapterError(f"The box in row {number} of the layout must be four numbers: [x0, y0, x1, y1].")
    x0, y0, x1, y1 = box = tuple(float(x) for x in value)
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise AdapterError(
            f"The box in row {number} of the layout is {list(value)}; it needs 0 <= x0 < x1 <= 1 and "
            "0 <= y0 < y1 <= 1, as shares of width and height from the top left corner."
        )
    return box


def _region(value: Any, key: str, count: int, number: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        raise AdapterError(
            f"The {key} in row {number} of the layout must be the number of a phrase row, "
            f"counted from 0; there {'is' if count == 1 else 'are'} {count}."
        )
    return value
