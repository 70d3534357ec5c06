"""Forge (lllyasviel's): the host that the WebUI's script uses there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

from backend import memory_management

from ..common.host import WebUIHost
from .run import ForgeRun


class Forge(WebUIHost):
    """The WebUI as `hosts.protocol.Host` describes it."""

    name = "Forge"

    def run(self, p: Any, continue_on_error: bool, hook: Mapping[str, Any], sampler: Callable[..., Any]) -> ForgeRun:
        return ForgeRun(self, p, continue_on_error, hook, sampler)

    def free(self) -> None:
        # an engine refers to itself, and the memory manager keeps what is referred to
        gc.collect()
        memory_management.cleanup_models()
        memory_management.soft_empty_cache()


HOST = Forge()
