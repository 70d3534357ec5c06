"""The contents of the panel's folds and tabs, for javascript/holding.js.

It marks those with changed settings, opens a fold into which something is pasted, and puts a number's default into a
field that was cleared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Any

from ..settings import AdapterSpec, Spec, of_kind

CLASS = "amdm-holding"


class Holding:
    """The folds and tabs of one panel in the making, by the selectors of their captions."""

    def __init__(self, elem_id_of: Callable[[int, Spec], str]) -> None:
        self.elem_id_of = elem_id_of
        self.places: list[dict[str, Any]] = []

    def mark(self, caption: str, slot: int, wanted: Iterable[Spec], opens: bool = False) -> None:
        """Let a caption show whether any of these settings of a slot is not at its default.

        Of an adapter's settings only its file counts. opens: the caption is a fold's, which is opened if its
        values change while it is closed.
        """
        wanted = list(wanted)
        if wanted:
            deciding = of_kind(AdapterSpec, wanted) or wanted
            ids = {"controls": wanted, "deciding": deciding}
            named = {name: [self.elem_id_of(slot, spec) for spec in of] for name, of in ids.items()}
            self.places.append({"caption": caption, "opens": opens, **named})

    def place(self, defaults: Mapping[str, Spec]) -> str:
        """Return an element that gives javascript/holding.js the places, and the defaults by their controls' ids."""
        values = {elem_id: spec.shown(spec.default) for elem_id, spec in defaults.items()}
        data = {"places": self.places, "defaults": values}
        attributes = " ".join(f'data-{name}="{escape(json.dumps(value))}"' for name, value in data.items())
        return f'<span class="{CLASS}" {attributes}></span>'
