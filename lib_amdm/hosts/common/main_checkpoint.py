"""The page's own control of the main checkpoint. Every WebUI makes it in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

ELEM_ID = "setting_sd_model_checkpoint"
"""The control's id in A1111 and reForge. In Forge and Forge Neo it has no id."""
LABEL, CLASS = "Checkpoint", "model_selection"
"""The control's label and class in Forge and Forge Neo."""


def is_main_checkpoint(control: Any, made: Mapping[str, Any]) -> bool:
    """Return True for the control of the main checkpoint. made: the arguments that it was made with."""
    # a control without classes has None
    of_forge = made.get("label") == LABEL and CLASS in (made.get("elem_classes") or ())
    # Forge Neo also makes one that is not on the page
    is_placed = isinstance(control, gr.Dropdown) and control.parent is not None
    return is_placed and (of_forge or made.get("elem_id") == ELEM_ID)
