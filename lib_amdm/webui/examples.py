"""The panel's list of examples: one fills the controls, and can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from ..hosts.protocol import Lists
from ..settings import CoModel, PictureSpec, flat
from . import listen, presets


def connect(
    host: Lists, slots: int, controls: Mapping[tuple[int, str], Any], chosen: Any, fill: Any, undo: Any
) -> None:
    """Let two buttons fill the controls from the example that is chosen in a list, and take it back.

    controls: under slot and name.
    """
    message, before = gr.HTML(value=""), gr.State(None)
    keys = [(slot, spec) for slot, spec in flat(slots) if not isinstance(spec, PictureSpec)]
    shown = [controls[slot, spec.name] for slot, spec in keys]
    untouched = [gr.update() for _ in keys]

    def filled(name: str | None, *values: Any) -> list[Any]:
        preset = next((preset for preset in presets.PRESETS if preset.name == name), None)
        if preset is None:
            return ["Choose an example first.", None, *untouched]
        listed_files = host.adapter_titles()
        example = preset.with_files(listed_files)
        missing = len(example.co_models) - slots
        if missing > 0:
            message = "This example needs more co-models: raise their number in the settings and reload the page."
            return [message, None, *untouched]
        example = replace(example, co_models=(*example.co_models, *(CoModel(),) * -missing))
        updates = (gr.update(value=spec.shown(example.value(slot, spec))) for slot, spec in keys)
        advice = " ".join((preset.advice, *presets.missing_files(example, listed_files)))
        return [escape(advice), list(values), *updates]

    def taken_back(values: list[Any] | None) -> list[Any]:
        if values is None:
            return ["There is nothing to take back.", None, *untouched]
        return ["", None, *(gr.update(value=value) for value in values)]

    fill.click(fn=listen.quick(filled), inputs=[chosen, *shown], outputs=[message, before, *shown])
    undo.click(fn=listen.quick(taken_back), inputs=[before], outputs=[message, before, *shown])
