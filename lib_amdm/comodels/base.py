"""What every co-model has in common."""

from __future__ import annotations

from ..errors import one_sentence


class AmdmError(Exception):
    """AMDM cannot do what was asked: one sentence that names the slot, the file or setting, and the remedy."""

    def __init__(self, told: str) -> None:
        super().__init__(one_sentence(told))
