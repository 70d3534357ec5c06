"""reForge (Panchovix's): the host that the WebUI's script uses there, and in relatives of the same API."""

from __future__ import annotations

from ldm_patched.modules import model_management

from ..common.host import WebUIHost
from ..common.memory_managers import freeing
from ..protocol import Host

HOST: Host = WebUIHost("reForge", __name__, freeing(model_management))
