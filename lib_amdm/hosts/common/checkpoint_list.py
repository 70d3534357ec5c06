"""The WebUI's own list of checkpoints: the only way from a name to a file."""

from __future__ import annotations

from modules import sd_models

from ...comodels.file_list import find_title, readable
from ..webui_types import CheckpointInfo


def find_checkpoint(name: str) -> CheckpointInfo | None:
    """Return the list's own entry for a name, hash or title, never for a path: only listed files can be loaded."""
    known = sd_models.checkpoint_aliases
    if name in known:
        return known[name]
    # the order of Forge Neo's list changes with each start
    spelt = {readable(alias): alias for alias in sorted(known)}
    title = find_title(name, spelt)
    return known[spelt[title]] if title else None
