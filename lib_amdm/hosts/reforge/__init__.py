"""reForge (Panchovix's): the host that the WebUI's script uses there, and in relatives of the same API."""

from __future__ import annotations

import gc

from ldm_patched.modules import model_management

from ..common.host import WebUIHost
from .backend import ReForgeBackend


def _free() -> None:
    # the memory manager holds models weakly, but they refer to themselves
    gc.collect()
    model_management.soft_empty_cache()


HOST = WebUIHost("reForge", ReForgeBackend, _free)
