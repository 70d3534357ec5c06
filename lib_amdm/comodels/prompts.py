"""A co-model's prompt, which can include the main one."""

from __future__ import annotations

MAIN_PROMPT = "{prompt}"
"""Stands for the main prompt in a co-model's own, as it stands for the prompt in a WebUI's styles."""


def prompt_of(own: str, main: str) -> str:
    """Return a co-model's prompt or negative prompt for a picture.

    own: the co-model's setting. main: the main model's text for this picture, with its styles and wildcards.
    """
    return main if is_main_prompt(own) else own.replace(MAIN_PROMPT, main)


def is_main_prompt(own: str) -> bool:
    """Return True if a co-model's setting means the main prompt alone."""
    return own.strip() in ("", MAIN_PROMPT)
