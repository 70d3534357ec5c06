"""Tooltips that a WebUI's own have no place for: of tabs and folds, and of buttons if there is no WebUI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape

CLASS = "amdm-tooltips"
PANEL = "Run other models alongside the main one: opening this switches it on, closing it switches it off."
SLOT = "The model to run with the main one: another checkpoint, or the main one with another prompt or an adapter."
FOLDS = {
    "main_adapter": "An adapter on the main model itself, with or without co-models.",
    "advanced": "Settings that are rarely changed: the correction, the first step, the pass of hires fix.",
    "examples": "Settings to start from: recipes for two or three of your checkpoints, and the paper's runs.",
    "memory_fold": "Show the co-models that are in memory, or unload them.",
    "adapter_of": "An adapter on this co-model only.",
    "region_of": "The part of the picture to which this co-model applies.",
    "more": "Settings of this co-model that are rarely changed.",
}
"""By the name in the fold's id."""


def of_tab(tabs: str, number: int, elem_id: str) -> str:
    """Return the selector of a tab's button, which has no id in gradio 3. number: from 1."""
    return f"#{elem_id}-button, #{tabs} > .tab-nav > button:nth-of-type({number})"


def of_fold(elem_id: str) -> str:
    """Return the selector of a fold's caption."""
    return f"#{elem_id} > .label-wrap"


def place(texts: Mapping[str, str]) -> str:
    """Return an element that gives javascript/tooltips.js these texts, by their selectors."""
    return f'<span class="{CLASS}" data-texts="{escape(json.dumps(texts))}"></span>'
