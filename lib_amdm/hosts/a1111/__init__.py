"""A1111 1.10: the host that the WebUI's script uses there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modules import devices

from ..common.host import WebUIHost
from .run import A1111Run


class A1111(WebUIHost):
    """The WebUI as `hosts.protocol.Host` describes it."""

    name = "A1111"

    def run(self, p: Any, continue_on_error: bool, hook: Mapping[str, Any], sampler: Callable[..., Any]) -> A1111Run:
        return A1111Run(self, p, continue_on_error, hook, sampler)

    def free(self) -> None:
        devices.torch_gc()


HOST = A1111()
