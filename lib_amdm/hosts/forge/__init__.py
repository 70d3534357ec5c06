"""Forge (lllyasviel's): the host that the WebUI's script uses there."""

from __future__ import annotations

from backend import memory_management

from ..common.engine_backend import freeing
from ..common.host import WebUIHost
from .backend import ForgeBackend

HOST = WebUIHost("Forge", ForgeBackend, freeing(memory_management))
