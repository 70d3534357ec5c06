"""The place of a layout's editor on the page: what the scripts in javascript/ find there, and build the editor in."""

from __future__ import annotations

from html import escape

from ..adapters import kinds
from ..hosts.protocol import Lists

CLASS = "amdm-layout"


def mount(host: Lists, field: str, adapter: str | None) -> str:
    """Return an empty element that names the layout's field by its id, and how much the chosen adapter takes."""
    data = {"field": field}
    info = host.adapter_info(adapter or "")
    if info is not None:
        room = kinds.room(info)
        counts = {"boxes": room.boxes, "actions": room.actions}
        data |= {"adapter": info.name} | {name: str(count) for name, count in counts.items() if count is not None}
    attributes = " ".join(f'data-{name}="{escape(value)}"' for name, value in data.items())
    return f'<div class="{CLASS}" {attributes}></div>'
