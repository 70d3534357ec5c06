"""The preview of a region: a small SVG, or an error in one line. Layouts are drawn by javascript/."""

from __future__ import annotations

from html import escape
from typing import Any

from ..comodels.regions import region_map
from ..errors import AmdmError, one_sentence
from ..files.pictures import as_text
from ..layout import LayoutError
from ..settings import CoModel

SIZE = 256
"""The longer side of the drawing, in pixels."""
COLOUR = "#4363d8"
EVERYWHERE = "Everywhere."
LARGEST = 16384
"""The longest side, in pixels, that is accepted for a picture."""
GRID = 64
"""Fields along a side of a region's drawing."""
REGION_INPUTS = ("region", "mask", "feather")
"""The settings of a slot that `region_preview` draws, in its order."""


def region_preview(text: Any, mask: Any, feather: Any, width: Any = SIZE, height: Any = SIZE) -> str:
    """Return HTML that shows a region over a picture of this size: boxes in `text`, the picture `mask`, the soft edge.

    A field that was cleared to type another number has none; the usual one is used then.
    """
    sides = [_number(side, 1, LARGEST, SIZE) for side in (width, height)]
    across, down = (max(round(side * GRID / max(sides)), 1) for side in sides)
    try:
        slot = CoModel(region="" if text is None else text, mask=as_text(mask), feather=_number(feather, 0, 0.5, 0))
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


def _number(value: Any, least: float, most: float, otherwise: float) -> float:
    """Return `value` within its bounds, or `otherwise` if it is not a number."""
    # in this order NaN becomes the lower bound
    return min(max(least, value), most) if isinstance(value, (int, float)) else otherwise


def _field(x: float, y: float, side: float, share: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="{COLOUR}" opacity="{share:.2f}"/>'


def _frame(width: float, height: float) -> str:
    return f'<rect x="0" y="0" width="{width:g}" height="{height:g}" fill="#8882" stroke="#888"/>'


def _svg(width: float, height: float, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" style="max-width: 100%; height: auto">{"".join(parts)}</svg>'
    )
