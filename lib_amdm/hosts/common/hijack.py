"""What A1111 and reForge have in common: text encoders that are wrapped by one process-wide object, the hijack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from modules import sd_hijack


@contextmanager
def notes_of_main_kept() -> Iterator[None]:
    """What the hijack notes of an encoded text for the infotext is the main prompt's, not a co-model's."""
    hijack = sd_hijack.model_hijack
    kept = hijack.extra_generation_params.copy(), hijack.comments.copy()
    try:
        yield
    finally:
        hijack.extra_generation_params, hijack.comments = kept


def embedding_names() -> tuple[str, ...]:
    """The textual inversions that are found in texts now."""
    return tuple(sorted(sd_hijack.model_hijack.embedding_db.word_embeddings))
