"""What an adapter complains with."""

from __future__ import annotations

from ..errors import one_sentence


class AdapterError(ValueError):
    """An adapter cannot do what was asked: one sentence that names the file or the setting, and the remedy."""

    def __init__(self, told: str) -> None:
        super().__init__(one_sentence(told))
