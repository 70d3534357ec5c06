"""Tooltips that a WebUI's own have no place for: of tabs and folds, and of buttons if there is no WebUI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

CLASS = "amdm-tooltips"
PANEL = "Run other models beside the main one: opening this switches it on, closing it switches it off."
SLOT = "What runs beside the main model: a checkpoint, or the main one with a prompt or an adapter of its own."
FOLDS = {
    "main_adapter": "An adapter that works on the main model itself, with or without co-models.",
    "advanced": "What is seldom changed: the correction, the first step, the pass of hires fix.",
    "examples": "Settings to start from: two checkpoints of yours, or one of the paper's runs.",
    "memory_fold": "Which co-models are in memory, and a way to take them out.",
    "adapter_of": "An adapter that works on this co-model alone.",
    "region_of": "The part of the picture in which this co-model speaks.",
    "more": "What is seldom changed of this co-model.",
}
"""By the name in the fold's id."""


def of_tab(tabs: str, number: int, elem_id: str) -> str:
    """Return the selector of a tab's button, which in gradio 3 has no id of its own. number: from 1."""
    return f"#{elem_id}-button, #{tabs} > .tab-nav > button:nth-of-type({number})"


def of_fold(elem_id: str) -> str:
    """Return the selector of a fold's caption."""
    return f"#{elem_id} > .label-wrap"


def place(texts: Mapping[str, str]) -> str:
    """Return an element that tells javascript/tooltips.js these texts, by their selectors."""
    return f'<span class="{CLASS}" data-texts="{escape(json.dumps(texts))}"></span>'
