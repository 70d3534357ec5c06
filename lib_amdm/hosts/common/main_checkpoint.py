"""The page's own control of the main checkpoint, which every WebUI makes in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

ELEM_ID = "setting_sd_model_checkpoint"
"""The id that A1111 and reForge give it; Forge's and Forge Neo's has none."""
LABEL, CLASS = "Checkpoint", "model_selection"
"""The caption and the class of Forge's and Forge Neo's."""


def is_main_checkpoint(control: Any, made: Mapping[str, Any]) -> bool:
    """Return True for the control of the main checkpoint. made: the arguments that it was made with."""
    # a control without classes has None
    of_forge = made.get("label") == LABEL and CLASS in (made.get("elem_classes") or ())
    # Forge Neo also makes one that is not on the page
    is_placed = isinstance(control, gr.Dropdown) and control.parent is not None
    return is_placed and (of_forge or made.get("elem_id") == ELEM_ID)
