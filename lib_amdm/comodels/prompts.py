"""A co-model's prompt, which can include the main one, and name the WebUI's styles."""

from __future__ import annotations

import re

MAIN_PROMPT = "{prompt}"
"""Stands for the main prompt in a co-model's own, as it stands for the prompt in a WebUI's styles."""
_STYLE = re.compile(r"\{style:([^{}]+)\}")


def prompt_of(setting: str, main: str) -> str:
    """Return a co-model's prompt or negative prompt for a picture.

    setting: the co-model's setting. main: the main model's text for this picture, with its styles and wildcards.
    """
    return main if is_main_prompt(setting) else setting.replace(MAIN_PROMPT, main)


def is_main_prompt(setting: str) -> bool:
    """Return True if a co-model's setting means the main prompt alone."""
    return setting.strip() in ("", MAIN_PROMPT)


def split_styles(setting: str) -> tuple[str, list[str]]:
    """Return a co-model's setting without its `{style:NAME}`, and these names.

    A setting that consists of styles alone means the main prompt with them.
    """
    names = [name.strip() for name in _STYLE.findall(setting)]
    if not names:
        return setting, []
    return _STYLE.sub("", setting).strip(" ,\n") or MAIN_PROMPT, names
