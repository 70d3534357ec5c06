"""Forge (lllyasviel's): the host that the WebUI's script uses there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend import memory_management

from ..common.host import WebUIHost
from ..common.memory_managers import freeing

if TYPE_CHECKING:
    from ..common.pass_run import PassRun
    from .backend import ForgeBackend


def _backend(run: PassRun) -> ForgeBackend:
    # with the first picture: a start needs none of it
    from .backend import ForgeBackend

    return ForgeBackend(run)


HOST = WebUIHost("Forge", _backend, freeing(memory_management))
