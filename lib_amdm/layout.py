"""What shall be where in a picture: phrases with boxes, and what one does to another, read from JSON or from lines.

As JSON: [{"phrase": "a boy", "box": [0.1, 0.2, 0.5, 0.9]}, {"phrase": "a ball", "box": [0.6, 0.7, 0.8, 0.9]},
{"subject": 0, "action": "kicking", "object": 1}]; subject and object count the phrases from 0. The same as lines:

    a boy: 0.1 0.2 0.5 0.9
    a ball: 0.6 0.7 0.8 0.9
    a boy > kicking > a ball

Boxes are x0, y0, x1, y1 as shares of the picture's width and height, from its top left corner.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import one_sentence

EXAMPLE = "a boy: 0.05 0.2 0.45 0.95\na ball: 0.6 0.7 0.85 0.95\na boy > kicking > a ball"

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the picture's width and height, from its top left corner."""

_BOX_NAMES = {"phrase", "box"}
_ACTION_NAMES = {"subject", "action", "object"}


class LayoutError(ValueError):
    """A row that cannot be used: the end of a sentence that names it and the remedy."""

    def __init__(self, told: str) -> None:
        super().__init__(one_sentence(told))


@dataclass(frozen=True)
class Region:
    """A phrase and its box."""

    phrase: str
    box: Box


@dataclass(frozen=True)
class Interaction:
    """What one phrase does to another; both by their number among the phrases."""

    subject: int
    action: str
    object: int


@dataclass(frozen=True)
class Layout:
    """The rows of a layout."""

    regions: tuple[Region, ...] = ()
    interactions: tuple[Interaction, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.regions)

    @property
    def phrases(self) -> list[str]:
        """The regions' phrases, in order; one may be there twice."""
        return [region.phrase for region in self.regions]

    @classmethod
    def read(cls, given: str | Sequence[Any]) -> Layout:
        """The layout in a text (JSON or lines) or in a list as JSON has it; LayoutError names the row."""
        if not isinstance(given, str):
            return cls.of_rows(given)
        text = given.strip()
        if not text.startswith(("[", "{")):
            return cls.of_rows(_rows_of_lines(text))
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise LayoutError(f"is not JSON ({error}); correct it, or write lines such as a ball: 0 0 0.5 1") from error
        return cls.of_rows(rows)

    @classmethod
    def of_rows(cls, rows: Any) -> Layout:
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise LayoutError("must be a list of rows, each with a phrase and a box or with subject, action and object")
        named = [(f"row {number}", row) for number, row in enumerate(rows, 1)]
        for name, row in named:
            if not isinstance(row, Mapping) or set(row) not in (_BOX_NAMES, _ACTION_NAMES):
                raise LayoutError(
                    f'has a {name} that is neither {{"phrase", "box"}} nor {{"subject", "action", "object"}}: '
                    f"{_short(row)}; correct it"
                )
        placed = tuple(_placed(name, row) for name, row in named if "phrase" in row)
        actions = tuple(_action(name, row, placed) for name, row in named if "action" in row)
        return cls(placed, actions)

    def rows(self) -> list[dict[str, Any]]:
        """The layout as JSON has it; `of_rows` of it gives the same layout."""
        boxes = [{"phrase": placed.phrase, "box": list(placed.box)} for placed in self.regions]
        actions = [{"subject": a.subject, "action": a.action, "object": a.object} for a in self.interactions]
        return [*boxes, *actions]


def boxes_of(given: str | Sequence[Any]) -> list[Box]:
    """A region's boxes, in a text (lines with or without phrases, or JSON) or a list; LayoutError names the row."""
    if isinstance(given, str):
        text = given.strip()
        if not text.startswith("["):
            given = [line.rpartition(":")[2] for line in filter(None, map(str.strip, text.splitlines()))]
            given = [[_value(word) for word in re.split(r"[\s,]+", line.strip(" []\t"))] for line in given]
        else:
            try:
                given = json.loads(text)
            except ValueError as error:
                raise LayoutError(f"is not JSON ({error}); correct it, or write lines such as 0 0 0.5 1") from error
    rows = [row["box"] if isinstance(row, Mapping) and "box" in row else row for row in given]
    return [_box(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _placed(name: str, row: Mapping[str, Any]) -> Region:
    return Region(_words(name, "phrase", row["phrase"]), _box(name, row["box"]))


def _box(name: str, given: Any) -> Box:
    fits = isinstance(given, Sequence) and not isinstance(given, str) and len(given) == 4
    if not fits or not all(_is_number(value) and 0 <= value <= 1 for value in given):
        raise LayoutError(
            f"has a {name} whose box is not four numbers from 0 to 1 (x0, y0, x1, y1): {_short(given)}; correct it"
        )
    x0, y0, x1, y1 = map(float, given)
    if x0 >= x1 or y0 >= y1:
        raise LayoutError(
            f"has a {name} whose box is empty: x0 must be less than x1 and y0 less than y1, but they are "
            f"{_short(given)}; correct it"
        )
    return x0, y0, x1, y1


def _action(name: str, row: Mapping[str, Any], placed: Sequence[Region]) -> Interaction:
    subject, object_ = (_number(name, end, row[end], placed) for end in ("subject", "object"))
    return Interaction(subject, _words(name, "action", row["action"]), object_)


def _number(name: str, end: str, given: Any, placed: Sequence[Region]) -> int:
    """A phrase's place among the phrases; lines name it by its words."""
    if isinstance(given, str):
        found = [number for number, other in enumerate(placed) if other.phrase == given]
        if len(found) != 1:
            many = "more than one row has" if found else "no row has"
            raise LayoutError(f'has a {name} whose {end} is "{given}", a phrase that {many}; correct it')
        return found[0]
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < len(placed):
        raise LayoutError(
            f"has a {name} whose {end} is {_short(given)}, but it must be the number of a phrase, counted from 0"
            + (f" to {len(placed) - 1}" if placed else ", and there is no phrase")
            + "; correct it"
        )
    return given


def _words(name: str, what: str, given: Any) -> str:
    if not isinstance(given, str) or not given.strip():
        raise LayoutError(f"has a {name} without words for its {what}; write some")
    return given.strip()


def _rows_of_lines(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        parts = [part.strip() for part in line.split(">")]
        phrase, colon, box = line.rpartition(":")
        if len(parts) == 3:
            subject, action, object_ = parts
            rows.append({"subject": _end(subject), "action": action, "object": _end(object_)})
        elif colon:
            rows.append({"phrase": phrase, "box": [_value(word) for word in re.split(r"[\s,]+", box.strip(" []\t"))]})
        else:
            raise LayoutError(
                f"has a row {len(rows) + 1} that reads {_short(line)}, but it must be like a ball: 0 0 0.5 1 or like "
                "a boy > kicking > a ball; correct it"
            )
    return rows


def _end(word: str) -> str | int:
    return int(word) if word.isdecimal() else word


def _value(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    told = " ".join(repr(value).split())
    return told if len(told) <= 80 else f"{told[:77]}..."
