"""A1111 1.10: the host that the WebUI's script uses there."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from modules import devices

from ..common.host import WebUIHost

if TYPE_CHECKING:
    from ..common.pass_run import PassRun
    from .backend import A1111Backend


def _backend(run: PassRun) -> A1111Backend:
    # with the first picture: a start needs none of it
    from .backend import A1111Backend

    return A1111Backend(run)


def _free() -> None:
    # a model refers to itself
    gc.collect()
    devices.torch_gc()


HOST = WebUIHost("A1111", _backend, _free)
