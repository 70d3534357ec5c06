"""The controls that AMDM's panel takes from its host, in plain gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

REFRESH = "\U0001f504"


@contextmanager
def input_accordion(value: bool, label: str, elem_id: str) -> Iterator[gr.Checkbox]:
    """Make an accordion with a checkbox; expanding it switches on, collapsing it switches off."""
    with gr.Accordion(label, open=value, elem_id=f"{elem_id}-accordion") as fold:
        switch = gr.Checkbox(value, label=label, elem_id=elem_id)
        fold.expand(lambda: True, outputs=switch, show_progress="hidden")
        fold.collapse(lambda: False, outputs=switch, show_progress="hidden")
        yield switch


def refresh_button(
    component: Any, refresh: Callable[[], None], choices: Callable[[], dict[str, Any]], elem_id: str
) -> gr.Button:
    """Make a button that reads a list again and gives `component` its new choices."""

    def renew() -> Any:
        refresh()
        return gr.update(**choices())

    button = tool_button(REFRESH, elem_id)
    button.click(renew, inputs=[], outputs=[component])
    return button


def tool_button(text: str, elem_id: str) -> gr.Button:
    return gr.Button(text, elem_id=elem_id, scale=0, min_width=50)
