"""AMDM in a WebUI that it does not support: a line instead of its panel, and an error for a request with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..errors import AmdmError
from ..hosts.webui_types import Processing
from ..settings import Settings, SwitchSpec, only, specs


def build(reason: str, elem_id: Callable[[str], str]) -> list[Any]:
    """Build the line, and a hidden switch that takes the place of the API's settings."""
    switch = only(SwitchSpec, specs(Settings))
    with gr.Accordion(switch.label, open=False, elem_id=elem_id("refusal")):
        gr.HTML(value=escape(reason))
        return [gr.Checkbox(value=False, label=switch.label, visible=False, elem_id=elem_id(switch.name))]


def refuse(reason: str, p: Processing, args: Sequence[Any]) -> None:
    """Make a picture with AMDM in its request fail; any other is left alone.

    The sampling of `p` itself fails: a WebUI swallows its hooks' errors, and may be too old to call the hook
    before the sampler.
    """
    first = args[0] if args else False
    if not (first.get("enabled", False) if isinstance(first, Mapping) else first):
        return

    def sample(*_: Any, **__: Any) -> None:
        raise AmdmError(reason)

    p.sample = sample
