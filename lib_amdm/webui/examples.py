"""The panel's list of examples: one fills the controls, and can be taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from html import escape
from typing import Any

import gradio as gr

from ..hosts.protocol import Lists
from ..settings import CoModel, PictureSpec, Settings, flat
from . import listen, presets

NAMES = [presets.TWO_CHECKPOINTS, *(preset.name for preset in presets.PRESETS)]
"""The examples that can be chosen, the plainest first."""


def connect(
    host: Lists, slots: int, controls: Mapping[tuple[int, str], Any], chosen: Any, fill: Any, undo: Any
) -> None:
    """Let two buttons fill the controls from the example that is chosen in a list, and take it back.

    controls: by slot and name. Their values before each example are kept, so that undoing all examples restores the
    user's own.
    """
    message, before = gr.HTML(value=""), gr.State([])
    keys = [(slot, spec) for slot, spec in flat(slots) if not isinstance(spec, PictureSpec)]
    shown = [controls[slot, spec.name] for slot, spec in keys]
    untouched = [gr.update() for _ in keys]

    def filled(name: str | None, kept: list[list[Any]], *values: Any) -> list[Any]:
        found = example(host, name)
        if found is None:
            return ["Choose an example first.", kept, *untouched]
        settings, advice = found
        missing = len(settings.co_models) - slots
        if missing > 0:
            message = "This example needs more co-models: raise their number in the settings and reload the page."
            return [message, kept, *untouched]
        settings = replace(settings, co_models=(*settings.co_models, *(CoModel(),) * -missing))
        new = [spec.shown(settings.value(slot, spec)) for slot, spec in keys]
        # the same example twice is undone at once
        kept = kept if new == list(values) else [*kept, list(values)]
        return [escape(advice), kept, *(gr.update(value=value) for value in new)]

    def taken_back(kept: list[list[Any]]) -> list[Any]:
        if not kept:
            return ["There is nothing to take back.", kept, *untouched]
        return ["", kept[:-1], *(gr.update(value=value) for value in kept[-1])]

    fill.click(fn=listen.quick(filled), inputs=[chosen, before, *shown], outputs=[message, before, *shown])
    undo.click(fn=listen.quick(taken_back), inputs=[before], outputs=[message, before, *shown])


def example(host: Lists, name: str | None) -> tuple[Settings, str] | None:
    """Return an example's settings with the user's own files, and what else it needs; None for an unknown name."""
    if name == presets.TWO_CHECKPOINTS:
        return presets.two_checkpoints(host)
    preset = next((preset for preset in presets.PRESETS if preset.name == name), None)
    if preset is None:
        return None
    files = host.adapter_titles()
    settings = preset.with_files(files)
    return settings, " ".join((preset.advice, *presets.missing_files(settings, files)))
