"""The memory that the models of a picture take, if the drawer can measure it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lib_amdm.settings import MAIN_CHECKPOINT, Settings

from .drawers.webui_api import WebUIDrawer
from .drawing import Drawer, Order
from .store import MemoryUse

if TYPE_CHECKING:
    # a WebUI's Python may have no diffusers
    from .studio.host import Standalone


class MemoryWatch:
    """Measures what a drawer's pictures take."""

    def __init__(self, drawer: Drawer) -> None:
        self.drawer = drawer
        self.host: Standalone | None = getattr(drawer, "host", None)

    def start(self) -> None:
        """Reset a GPU's peak, where the pictures are drawn in this process."""
        if self.host is not None and self.host.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.host.device)

    def used_by(self, order: Order) -> MemoryUse:
        """Return what the picture that was just drawn took."""
        settings = Settings.from_dict(order.settings or {})
        co_models = [slot.checkpoint for _, slot in settings.active] if settings.mixes else []
        if self.host is not None:
            names = [order.checkpoint if name == MAIN_CHECKPOINT else name for name in co_models]
            return _in_this_process(self.host, [order.checkpoint, *names])
        return _in_webui(self.drawer, bool(co_models)) if isinstance(self.drawer, WebUIDrawer) else MemoryUse()


def _in_this_process(host: Standalone, checkpoints: Sequence[str]) -> MemoryUse:
    total, main = _bytes(host, checkpoints), _bytes(host, checkpoints[:1])
    if host.device.type == "cuda":
        return MemoryUse(total - main, torch.cuda.max_memory_allocated(host.device), "gpu")
    return MemoryUse(total - main, total, "weights")


def _bytes(host: Standalone, checkpoints: Sequence[str]) -> int:
    """Return the size of loaded checkpoints; what two of them share counts once."""
    models = [host.load(name).model for name in dict.fromkeys(checkpoints)]
    tensors = {t.data_ptr(): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _in_webui(drawer: WebUIDrawer, mixes: bool) -> MemoryUse:
    co_models = sum(size for _, size in drawer.loaded()) if mixes else 0
    for kind, keys in (("gpu", ("cuda", "allocated", "peak")), ("process", ("ram", "used"))):
        total = drawer.figure(*keys)
        if total is not None:
            return MemoryUse(co_models, total, kind)
    return MemoryUse(co_models)
