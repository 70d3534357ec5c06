"""The panel's list of examples: one fills the controls, and can be taken back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..hosts.protocol import Lists
from ..settings import CheckpointSpec, CoModel, PictureSpec, Settings, flat
from . import listen, presets, recipes

Chosen = Sequence[str | None]
"""The checkpoints that the panel's co-models have."""
Example = Callable[[Lists, Chosen], tuple[Settings, str]]
"""Makes an example's settings of a host's lists and of what is chosen, and lines that say what else it needs."""


def connect(
    example: Callable[[str | None, Chosen], tuple[Settings, str] | None],
    slots: int,
    controls: Mapping[tuple[int, str], Any],
    chosen: Any,
    fill: Any,
    undo: Any,
) -> None:
    """Let two buttons fill the controls from the example that is chosen in a list, and undo this.

    example: returns the settings of an example for the chosen checkpoints, and what else they need.
    controls: by slot and name.

    Their values before each example are kept, so that undoing all examples restores the user's values.
    """
    message, before = gr.HTML(value=""), gr.State([])
    keys = [(slot, spec) for slot, spec in flat(slots) if not isinstance(spec, PictureSpec)]
    shown = [controls[slot, spec.name] for slot, spec in keys]
    untouched = [gr.update() for _ in keys]

    def filled(name: str | None, history: list[list[Any]], *values: Any) -> list[Any]:
        checkpoints = [value for (_, spec), value in zip(keys, values) if isinstance(spec, CheckpointSpec)]
        example_settings = example(name, checkpoints)
        if example_settings is None:
            return ["Choose an example first.", history, *untouched]
        settings, advice = example_settings
        missing = len(settings.co_models) - slots
        if missing > 0:
            message = "This example needs more co-models: raise their number in the settings and reload the page."
            return [message, history, *untouched]
        settings = replace(settings, co_models=(*settings.co_models, *(CoModel(),) * -missing))
        new = [spec.shown(settings.value(slot, spec)) for slot, spec in keys]
        # the same example twice is undone at once
        history = history if new == list(values) else [*history, list(values)]
        return [escape(advice).replace("\n", "<br>"), history, *(gr.update(value=value) for value in new)]

    def taken_back(history: list[list[Any]]) -> list[Any]:
        if not history:
            return ["There is nothing to take back.", history, *untouched]
        return ["", history[:-1], *(gr.update(value=value) for value in history[-1])]

    fill.click(fn=listen.quick(filled), inputs=[chosen, before, *shown], outputs=[message, before, *shown])
    undo.click(fn=listen.quick(taken_back), inputs=[before], outputs=[message, before, *shown])


def _two_checkpoints(host: Lists, chosen: Chosen) -> tuple[Settings, str]:
    return presets.two_checkpoints(host)


def _of_preset(preset: presets.Preset, host: Lists, chosen: Chosen) -> tuple[Settings, str]:
    """Return a preset's settings with the user's own files, and what else it needs."""
    files = host.adapter_titles()
    settings = preset.with_files(files)
    return settings, " ".join((preset.advice, *presets.missing_files(settings, files)))


EXAMPLES: dict[str, Example] = {
    presets.TWO_CHECKPOINTS: _two_checkpoints,
    **{recipe.name: partial(recipes.filled, recipe) for recipe in recipes.RECIPES},
    **{preset.name: partial(_of_preset, preset) for preset in presets.PRESETS},
}
"""The examples that can be chosen, the plainest first."""
NAMES = list(EXAMPLES)
