"""The WebUI's token counter on the prompts of the co-models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from ..comodels.prompts import prompt_of, split_styles
from . import listen

PLACE = '<p class="amdm-tokens" data-prompt="{prompt}">{count}</p>'
"""The element from which javascript/token_counters.js takes a count; some versions of gradio repeat the id of one."""
MAIN_PROMPTS = {"prompt": "prompt", "negative_prompt": "neg_prompt"}
"""The settings that are prompts, and the ends of the ids of the WebUI's own boxes for them."""


TokenCount = Callable[[str, Sequence[str], bool], str]
"""See `hosts.protocol.Page`."""


def add(count: TokenCount, name: str, prompt: Any, mains: Mapping[str, Any]) -> None:
    """Build the counter of a prompt's box; javascript/token_counters.js asks for each new count, and shows it there.

    name: of the prompt's setting.
    mains: the page's own controls by the ends of their ids, if it has them.
    """
    counter = gr.HTML(value=PLACE.format(prompt=prompt.elem_id, count=""), elem_classes=["amdm-unseen"])
    button = gr.Button("Count", elem_id=f"{prompt.elem_id}_count", elem_classes=["amdm-unseen"])
    button.do_not_save_to_config = True
    main = mains.get(MAIN_PROMPTS[name])

    def counted(text: str, main_text: str = "") -> str:
        words, styles = split_styles(text)
        shown = count(prompt_of(words, main_text), styles, name != "prompt")
        return PLACE.format(prompt=prompt.elem_id, count=shown)

    button.click(
        fn=listen.quick(counted),
        inputs=[prompt] if main is None else [prompt, main],
        outputs=[counter],
        queue=False,
        show_progress=False,
    )
