"""What an adapter complains with."""

from __future__ import annotations


class AdapterError(ValueError):
    """An adapter cannot do what was asked: one sentence that names the file or the setting, and the remedy."""
