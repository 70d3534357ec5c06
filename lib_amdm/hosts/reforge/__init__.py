"""reForge (Panchovix's): the host that the WebUI's script uses there, and in relatives of the same API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ldm_patched.modules import model_management

from ..common.host import WebUIHost
from ..common.memory_managers import freeing

if TYPE_CHECKING:
    from ..common.pass_run import PassRun
    from .backend import ReForgeBackend


def _backend(run: PassRun) -> ReForgeBackend:
    # with the first picture: a start needs none of it
    from .backend import ReForgeBackend

    return ReForgeBackend(run)


HOST = WebUIHost("reForge", _backend, freeing(model_management))
