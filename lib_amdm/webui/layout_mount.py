"""The place of a layout's or region's editor on the page, where the scripts in javascript/ build it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ..adapters import kinds
from ..hosts.protocol import Lists

CLASS = "amdm-layout"
REGION = "amdm-region"
"""The class of the element with a region's editor and its drawing."""
SHARES = "amdm-shares"
"""The class of that drawing, which lies under the boxes."""


def mount(host: Lists, field: str, adapter: str | None) -> str:
    """Return an empty element that names the layout's field by its id, and how much the chosen adapter takes."""
    data = {"field": field}
    info = host.adapter_info(adapter or "")
    if info is not None:
        room = kinds.room(info)
        counts = {"boxes": room.boxes, "actions": room.actions}
        data |= {"adapter": info.name} | {name: str(count) for name, count in counts.items() if count is not None}
    return _place(data)


def mount_region(field: str) -> str:
    """Return an empty element that names the field of a region's boxes by its id."""
    return _place({"field": field, "kind": "region"})


def _place(data: Mapping[str, str]) -> str:
    attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in data.items())
    return f'<div class="{CLASS}" {attributes}></div>'
