"""The hijack: one process-wide object that wraps the text encoders of A1111 and reForge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modules import sd_hijack


@contextmanager
def notes_of_main_kept() -> Iterator[None]:
    """Keep the hijack's notes on encoded texts, which go into the infotext, those of the main prompt."""
    hijack = sd_hijack.model_hijack
    kept = hijack.extra_generation_params.copy(), hijack.comments.copy()
    try:
        yield
    finally:
        hijack.extra_generation_params, hijack.comments = kept


def embedding_names() -> tuple[str, ...]:
    """The textual inversions that are found in texts now."""
    return tuple(sorted(sd_hijack.model_hijack.embedding_db.word_embeddings))
