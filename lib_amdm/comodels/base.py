"""What every co-model has in common."""

from __future__ import annotations


class AmdmError(Exception):
    """AMDM cannot do what was asked: one sentence that names the slot, the file or setting, and the remedy."""
