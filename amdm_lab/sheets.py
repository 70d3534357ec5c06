"""Sheets of pictures with captions, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

INK, PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Form:
    """The measures of a sheet, in pixels."""

    font: int
    line: int
    """Height of a line of a head."""
    left: int
    """Width of the column of labels."""
    margin: int
    across: int = 4
    """Gap between two columns."""
    down: int = 4
    """Gap between two rows."""
    centred: bool = False
    """True for heads of one line over the middle of their columns."""


def strip(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Join pictures of one size in a row."""
    width, height = pictures[0].size
    joined = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), PAPER)
    for number, picture in enumerate(pictures):
        joined.paste(picture, (number * (width + gap), 0))
    return joined


def sheet(
    rows: Sequence[Sequence[Image.Image]], heads: Sequence[Sequence[str]], labels: Sequence[str], form: Form
) -> Image.Image:
    """Draw rows of pictures of one size.

    heads: the lines above each column.
    labels: the text beside each row.
    form: the sheet's measures.
    """
    font = ImageFont.load_default(size=form.font)
    width, height = rows[0][0].size
    top = form.margin + form.line * max(map(len, heads)) + (0 if form.centred else form.down)
    left = form.margin + form.left
    size = (left + len(heads) * (width + form.across), top + len(rows) * (height + form.down) - form.down + form.margin)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        x = left + column * (width + form.across)
        place, anchor = (x + width // 2, "ma") if form.centred else (x, "la")
        for number, line in enumerate(head):
            pen.text((place, form.margin + number * form.line), line, INK, font, anchor=anchor)
    for row, (label, pictures) in enumerate(zip(labels, rows)):
        y = top + row * (height + form.down)
        pen.multiline_text((form.margin, y + height // 2), label, INK, font, anchor="lm")
        for column, picture in enumerate(pictures):
            page.paste(picture, (left + column * (width + form.across), y))
    return page


def text_width(text: str, form: Form) -> float:
    return ImageFont.load_default(size=form.font).getlength(text)
