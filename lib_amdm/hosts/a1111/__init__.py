"""A1111 1.10: the host that the WebUI's script uses there."""

from __future__ import annotations

import gc

from modules import devices

from ..common.host import WebUIHost
from ..protocol import Host


def _free() -> None:
    # a model refers to itself
    gc.collect()
    devices.torch_gc()


HOST: Host = WebUIHost("A1111", __name__, _free)
