"""Forge Neo (Haoming02's): the host that the WebUI's script uses there."""

from __future__ import annotations

import gc

from backend import memory_management

from ..common.host import WebUIHost
from .backend import NeoBackend


def _free() -> None:
    # an engine refers to itself, and the memory manager keeps what is referred to
    gc.collect()
    memory_management.cleanup_models()
    memory_management.soft_empty_cache()


HOST = WebUIHost("Forge Neo", NeoBackend, _free)
