"""A1111 1.10: the host that the WebUI's script uses there."""

from __future__ import annotations

from modules import devices

from ..common.host import WebUIHost
from .backend import A1111Backend

HOST = WebUIHost("A1111", A1111Backend, devices.torch_gc)
