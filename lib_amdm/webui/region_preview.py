"""Previews of a layout and of a region: a small SVG, or a line that says what is wrong."""

from __future__ import annotations

from html import escape
from typing import Any

from ..comodels.pictures import as_text
from ..comodels.regions import region_map
from ..errors import SHORT, AmdmError, one_sentence
from ..layout import Layout, LayoutError, Region
from ..settings import CoModel

SIZE = 256
"""The longer side of the drawing, in pixels."""
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000")
EMPTY = "No boxes yet."
EVERYWHERE = "Everywhere."
LARGEST = 16384
"""The longest side, in pixels, that a picture is taken to have."""
GRID = 64
"""Fields along a side of a region's drawing."""
REGION_INPUTS = ("region", "mask", "feather")
"""The settings of a slot that `region_preview` draws, in its order."""


def preview(text: Any, aspect: float = 1.0) -> str:
    """Return HTML that shows the layout in `text` on a picture whose width is `aspect` times its height."""
    try:
        layout = Layout.read(text or "")
    except LayoutError as error:
        return _refusal(f"The layout {error}.")
    return drawing(layout, aspect) if layout else EMPTY


def region_preview(text: Any, mask: Any, feather: Any, width: Any = SIZE, height: Any = SIZE) -> str:
    """Return HTML that shows a region over a picture of this size: boxes in `text`, the picture `mask`, the soft edge.

    A field that was cleared to type another number holds none; the usual one stands in for it.
    """
    sides = [_number(side, 1, LARGEST, SIZE) for side in (width, height)]
    across, down = (max(round(side * GRID / max(sides)), 1) for side in sides)
    try:
        slot = CoModel(region=text or "", mask=as_text(mask), feather=_number(feather, 0, 0.5, 0))
        shares = region_map(slot, down, across, "The region")
    except LayoutError as error:
        return _refusal(f"The region {error}.")
    except AmdmError as error:
        return _refusal(str(error))
    if shares is None:
        return EVERYWHERE
    side = SIZE / GRID
    rows = [
        _field(x * side, y * side, side, share)
        for y, row in enumerate(shares[0, 0].tolist())
        for x, share in enumerate(row)
        if share > 0
    ]
    return _svg(across * side, down * side, [_frame(across * side, down * side), *rows])


def _refusal(message: str) -> str:
    return f'<p class="error">{escape(one_sentence(message))}</p>'


def _number(given: Any, least: float, most: float, otherwise: float) -> float:
    """Return `given` within its bounds, or `otherwise` where it is no number."""
    # in this order a NaN becomes the least
    return min(max(least, given), most) if isinstance(given, (int, float)) else otherwise


def _field(x: float, y: float, side: float, share: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="{COLOURS[2]}" opacity="{share:.2f}"/>'


def _frame(width: float, height: float) -> str:
    return f'<rect x="0" y="0" width="{width:g}" height="{height:g}" fill="#8882" stroke="#888"/>'


def _svg(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" style="max-width: 100%; height: auto">{"".join(parts)}</svg>'
    )


def drawing(layout: Layout, aspect: float = 1.0) -> str:
    """Return an SVG of a layout's boxes, phrases and actions."""
    width, height = (SIZE, SIZE / aspect) if aspect >= 1 else (SIZE * aspect, SIZE)
    parts = [_frame(width, height)]
    parts += [_box(placed, COLOURS[n % len(COLOURS)], width, height) for n, placed in enumerate(layout.regions)]
    for action in layout.interactions:
        (x0, y0), (x1, y1) = (_centre(layout.regions[end], width, height) for end in (action.subject, action.object))
        parts.append(
            f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" stroke="currentColor" stroke-dasharray="4 3"/>'
            f'<circle cx="{x1:g}" cy="{y1:g}" r="4" fill="currentColor"/>'
            + _text((x0 + x1) / 2, (y0 + y1) / 2 - 4, action.action, "currentColor", "middle")
        )
    return _svg(width, height, parts)


def _box(placed: Region, colour: str, width: float, height: float) -> str:
    x0, y0, x1, y1 = placed.box
    x, y = x0 * width, y0 * height
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{(x1 - x0) * width:g}" height="{(y1 - y0) * height:g}" '
        f'fill="{colour}33" stroke="{colour}" stroke-width="2"/>' + _text(x + 4, y + 14, placed.phrase, colour, "start")
    )


def _text(x: float, y: float, text: str, colour: str, anchor: str) -> str:
    shown = escape(one_sentence(text, SHORT))
    return f'<text x="{x:g}" y="{y:g}" font-size="12" fill="{colour}" text-anchor="{anchor}">{shown}</text>'


def _centre(placed: Region, width: float, height: float) -> tuple[float, float]:
    x0, y0, x1, y1 = placed.box
    return (x0 + x1) / 2 * width, (y0 + y1) / 2 * height
