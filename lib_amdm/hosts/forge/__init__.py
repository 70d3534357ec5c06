"""Forge (lllyasviel's): the host that the WebUI's script uses there."""

from __future__ import annotations

from backend import memory_management

from ..common.host import WebUIHost
from ..common.memory_managers import freeing
from ..protocol import Host

HOST: Host = WebUIHost("Forge", __name__, freeing(memory_management), runs_flow_models=True)
