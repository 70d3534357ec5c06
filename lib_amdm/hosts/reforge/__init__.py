"""reForge (Panchovix's): the host that the WebUI's script uses there, and in relatives of the same API."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from ldm_patched.modules import model_management

from ..common.host import WebUIHost
from .run import ReForgeRun


class ReForge(WebUIHost):
    """The WebUI as `hosts.protocol.Host` describes it."""

    name = "reForge"

    def run(self, p: Any, continue_on_error: bool, hook: Mapping[str, Any], sampler: Callable[..., Any]) -> ReForgeRun:
        return ReForgeRun(self, p, continue_on_error, hook, sampler)

    def free(self) -> None:
        # the memory manager holds models weakly, but they refer to themselves
        gc.collect()
        model_management.soft_empty_cache()


HOST = ReForge()
