"""Layouts: phrases with their boxes in a picture, and actions between them, read from JSON or from lines.

As JSON: [{"phrase": "a boy", "box": [0.1, 0.2, 0.5, 0.9]}, {"phrase": "a ball", "box": [0.6, 0.7, 0.8, 0.9]},
{"subject": 0, "action": "kicking", "object": 1}]; subject and object count the phrases from 0. The same as lines:

    a boy: 0.1 0.2 0.5 0.9
    a ball: 0.6 0.7 0.8 0.9
    a boy > kicking > a ball

Boxes are x0, y0, x1, y1 as shares of the picture's width and height, from its top left corner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import clipped, one_sentence, short

EXAMPLE = "a boy: 0.05 0.2 0.45 0.95\na ball: 0.6 0.7 0.85 0.95\na boy > kicking > a ball"

MOST_ROWS = 500

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as shares of the picture's width and height, from its top left corner."""

_BOX_NAMES = {"phrase", "box"}
_ACTION_NAMES = {"subject", "action", "object"}
_LINES = "a ball: 0 0 0.5 1"
_QUOTATION_MARKS = ('""', "''", "“”", "„“", "„”", "«»", "»«", "‘’", "‚‘", "‹›", "「」")
_PLACE = re.compile("[0-9]{1,9}")
"""A phrase's number; Python reads none of thousands of digits."""
_SHARE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""A number of a line, as the layout editor reads it too."""


class LayoutError(ValueError):
    """A row that cannot be used: the end of a sentence that names it and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_sentence(message))


class Region(NamedTuple):
    """A phrase and its box."""

    phrase: str
    box: Box


class Interaction(NamedTuple):
    """An action of one phrase on another; both by their number among the phrases."""

    subject: int
    action: str
    object: int


class Layout(NamedTuple):
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
    def read(cls, source: str | Sequence[Any]) -> Layout:
        """Read a layout from a text (JSON or lines), or from a list as JSON has it; LayoutError names the row."""
        if not isinstance(source, str):
            return cls.of_rows(source)
        text = _bare(source)
        return cls.of_rows(_json(text, _LINES) if text.startswith(("[", "{")) else _rows_of_lines(text))

    @classmethod
    def of_rows(cls, rows: Any) -> Layout:
        """Read a layout from a list of rows; LayoutError names the row."""
        if not is_list(rows):
            raise LayoutError(
                "must be a list of rows, each with a phrase and a box or with subject, action and object, but it is "
                f"{short(rows)}; correct it"
            )
        _refuse_too_many(rows)
        named = [(f"row {number}", row) for number, row in enumerate(rows, 1)]
        for name, row in named:
            if not isinstance(row, Mapping) or set(row) not in (_BOX_NAMES, _ACTION_NAMES):
                raise LayoutError(
                    f'has a {name} that is neither {{"phrase", "box"}} nor {{"subject", "action", "object"}}: '
                    f"{short(row)}; correct it"
                )
        placed = tuple(_placed(name, row) for name, row in named if "phrase" in row)
        actions = tuple(_action(name, row, placed) for name, row in named if "action" in row)
        return cls(placed, actions)

    def within(self, crop: Box) -> Layout:
        """Return the layout of a crop of the picture: the parts of boxes in it, and the actions of what is left."""
        seen = {number: box for number, region in enumerate(self.regions) if (box := _clipped(region.box, crop))}
        places = {number: place for place, number in enumerate(seen)}
        actions = (a for a in self.interactions if a.subject in seen and a.object in seen)
        return Layout(
            tuple(Region(self.regions[number].phrase, box) for number, box in seen.items()),
            tuple(Interaction(places[a.subject], a.action, places[a.object]) for a in actions),
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return the layout as JSON has it; `of_rows` of it gives the same layout."""
        boxes = [{"phrase": placed.phrase, "box": list(placed.box)} for placed in self.regions]
        actions = [{"subject": a.subject, "action": a.action, "object": a.object} for a in self.interactions]
        return [*boxes, *actions]


def boxes_of(source: str | Sequence[Any]) -> list[Box]:
    """Read a region's boxes from a text (lines with or without phrases, or JSON) or a list; LayoutError names a row."""
    if isinstance(source, str):
        text = _bare(source)
        source = _json(text, "0 0 0.5 1") if text.startswith(("[", "{")) else _boxes_of_lines(text)
    if not is_list(source):
        raise LayoutError(
            f"must be a list of boxes, each with four numbers from 0 to 1 (x0, y0, x1, y1), but it is {short(source)}; "
            "correct it"
        )
    _refuse_too_many(source)
    rows = [row["box"] if isinstance(row, Mapping) and "box" in row else row for row in source]
    return [_box(f"row {number}", row) for number, row in enumerate(rows, 1)]


def _clipped(box: Box, crop: Box) -> Box | None:
    """Return the part of a box that is in a crop, as shares of it; None if there is none."""
    left, top, right, bottom = crop
    x0, x1 = (min(max((x - left) / (right - left), 0.0), 1.0) for x in (box[0], box[2]))
    y0, y1 = (min(max((y - top) / (bottom - top), 0.0), 1.0) for y in (box[1], box[3]))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _refuse_too_many(rows: Sequence[Any]) -> None:
    """Limit the number of rows: a map of boxes takes the square of it."""
    if len(rows) > MOST_ROWS:
        raise LayoutError(f"has {len(rows)} rows, but at most {MOST_ROWS} are read; remove some")


def _bare(text: str) -> str:
    """Strip `text` of blanks around it, and of the byte order mark that some editors begin a file with."""
    return text.strip().removeprefix("\ufeff").strip()


def _json(text: str, lines: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LayoutError(f"is not JSON ({error}); correct it, or write lines such as {lines}") from error
    except (ValueError, RecursionError) as error:
        raise LayoutError(
            "is JSON with too long a number, or with lists too deep in lists; correct it, or write lines such as "
            f"{lines}"
        ) from error


def is_list(value: Any) -> bool:
    """Return True for JSON's kind of list; to Python, texts, bytes and ranges are sequences too."""
    return isinstance(value, (list, tuple))


def _placed(name: str, row: Mapping[str, Any]) -> Region:
    return Region(_text(name, "phrase", row["phrase"]), _box(name, row["box"]))


def _box(name: str, value: Any) -> Box:
    if not is_list(value) or len(value) != 4 or not all(map(_is_share, value)):
        raise LayoutError(
            f"has a {name} whose box is not four numbers from 0 to 1 (x0, y0, x1, y1): {short(value)}; correct it"
        )
    x0, y0, x1, y1 = map(float, value)
    if x0 >= x1 or y0 >= y1:
        raise LayoutError(
            f"has a {name} whose box is empty: x0 must be less than x1 and y0 less than y1, but they are "
            f"{short(value)}; correct it"
        )
    return x0, y0, x1, y1


def _action(name: str, row: Mapping[str, Any], placed: Sequence[Region]) -> Interaction:
    subject, object_ = (_number(name, end, row[end], placed) for end in ("subject", "object"))
    return Interaction(subject, _text(name, "action", row["action"]), object_)


def _number(name: str, end: str, reference: Any, placed: Sequence[Region]) -> int:
    """Return a phrase's number among the phrases.

    It may be given by the phrase itself, which means the first row with it, or in lines as a text.
    """
    if isinstance(reference, str):
        first = next((number for number, other in enumerate(placed) if other.phrase == reference), None)
        if first is not None:
            return first
        if not _PLACE.fullmatch(reference):
            raise LayoutError(
                f'has a {name} whose {end} is "{clipped(reference)}", a phrase that no row has; correct it'
            )
        reference = int(reference)
    if not isinstance(reference, int) or isinstance(reference, bool) or not 0 <= reference < len(placed):
        raise LayoutError(
            f"has a {name} whose {end} is {short(reference)}, but it must be the number of a phrase, counted from 0"
            + (f" to {len(placed) - 1}" if placed else ", and there is no phrase")
            + "; correct it"
        )
    return reference


def _text(name: str, part: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise LayoutError(f"has a {name} without words for its {part}; write some")
    return value.strip()


def _rows_of_lines(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for line in _lines(text):
        parts = line.split(">")
        phrase, colon, box = line.rpartition(":")
        if len(parts) == 3:
            rows.append(dict(zip(("subject", "action", "object"), map(_unquoted, parts))))
        elif colon:
            rows.append({"phrase": _unquoted(phrase), "box": _values(box)})
        else:
            raise LayoutError(
                f"has a row {len(rows) + 1} that reads {short(line)}, but it must be like {_LINES} or like "
                "a boy > kicking > a ball; correct it"
            )
    return rows


def _boxes_of_lines(text: str) -> list[list[float | str]]:
    return [_values(line.rpartition(":")[2]) for line in _lines(text)]


def _lines(text: str) -> Iterator[str]:
    return filter(None, map(str.strip, text.splitlines()))


def _unquoted(text: str) -> str:
    """Strip `text` of quotation marks around all of it, as JSON and prompts have them."""
    text = text.strip()
    inner = text[1:-1].strip()
    quoted = len(text) > 2 and text[0] + text[-1] in _QUOTATION_MARKS
    return inner if quoted and not {text[0], text[-1]} & set(inner) else text


def _values(box: str) -> list[float | str]:
    words = re.split(r"[\s,]+", box.strip(" []\t"))
    return [float(word) if _SHARE.fullmatch(word) else word for word in words]


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1
