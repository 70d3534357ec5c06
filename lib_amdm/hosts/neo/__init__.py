"""Forge Neo (Haoming02's): the host that the WebUI's script uses there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend import memory_management

from ...comodels.file_list import without_hash
from ..common.host import WebUIHost
from ..common.memory_managers import freeing

if TYPE_CHECKING:
    from ..common.pass_run import PassRun
    from .backend import NeoBackend


def _backend(run: PassRun) -> NeoBackend:
    # with the first picture: a start needs none of it
    from .backend import NeoBackend

    return NeoBackend(run)


class NeoHost(WebUIHost):
    """Forge Neo, whose list of checkpoints is a set: what it shows of it, it sorts."""

    def checkpoint_titles(self) -> list[str]:
        return sorted(super().checkpoint_titles(), key=without_hash)


HOST = NeoHost("Forge Neo", _backend, freeing(memory_management))
