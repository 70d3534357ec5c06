"""The parts that only A1111 and reForge share: the flags of a model, and the hijack, which wraps text encoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import sd_hijack

FLAGS = {"is_sd3": "SD3", "is_sdxl": "SDXL", "is_sd2": "SD2", "is_sd1": "SD1"}
HIJACK_OPTIONS = ("use_old_scheduling", "use_old_emphasis_implementation", "comma_padding_backtrack")
"""Their options for texts that Forge and Forge Neo do not have, or do not read."""


def flagged_family(model: Any, default: str) -> str:
    """Return the name of a model's family by the host's flags on it."""
    return next((name for flag, name in FLAGS.items() if getattr(model, flag, False)), default)


@contextmanager
def notes_of_main_kept() -> Iterator[None]:
    """Restrict the hijack's notes on encoded texts, which go into the infotext, to the main prompt."""
    hijack = sd_hijack.model_hijack
    before = hijack.extra_generation_params.copy(), hijack.comments.copy()
    try:
        yield
    finally:
        hijack.extra_generation_params, hijack.comments = before


def embedding_names() -> tuple[str, ...]:
    """Return the textual inversions that are found in texts now."""
    return tuple(sorted(sd_hijack.model_hijack.embedding_db.word_embeddings))
