"""Forge Neo (Haoming02's): the host that the WebUI's script uses there."""

from __future__ import annotations

from backend import memory_management

from ...comodels.file_list import without_hash
from ..common.host import WebUIHost
from ..common.memory_managers import freeing
from ..protocol import Host


class NeoHost(WebUIHost):
    """Forge Neo: its list of checkpoints is a set, which it sorts for display."""

    def checkpoint_titles(self) -> list[str]:
        return sorted(super().checkpoint_titles(), key=without_hash)


HOST: Host = NeoHost("Forge Neo", __name__, freeing(memory_management), runs_flow_models=True)
