"""The memory that the models of a picture take, as far as the place that draws it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..drawers.webui_api import WebUIDrawer
from ..drawing import Drawer
from ..records import number
from .ways import Way

if TYPE_CHECKING:
    # a WebUI's Python may have no diffusers
    from ..studio.host import Standalone

MEANINGS = {
    "weights": "the weights of the models that it runs",
    "gpu": "the most that the GPU had held by then",
    "process": "the WebUI's whole process after it",
    "": "not known",
}


@dataclass(frozen=True)
class Memory:
    """co_models: bytes of the co-models that AMDM keeps. total: bytes of what `kind`, a key of MEANINGS, says."""

    co_models: int = 0
    total: int = 0
    kind: str = ""

    def checked(self) -> Memory:
        """Return the same; ValueError where it is no memory."""
        if self.kind not in MEANINGS:
            raise ValueError("no such kind of memory")
        return Memory(int(number(self.co_models)), int(number(self.total)), self.kind)


def prepare(drawer: Drawer) -> None:
    """Count a GPU's peak anew, where the pictures are drawn in this process."""
    host = _host(drawer)
    if host is not None and host.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(host.device)


def memory_after(drawer: Drawer, way: Way) -> Memory:
    """Return what a picture that was just drawn took."""
    host = _host(drawer)
    if host is not None:
        return _standalone(host, way)
    return _webui(drawer, way) if isinstance(drawer, WebUIDrawer) else Memory()


def _host(drawer: Drawer) -> Standalone | None:
    """Return the standalone host that draws, if it is one."""
    return getattr(drawer, "host", None)


def _standalone(host: Standalone, way: Way) -> Memory:
    both, own = _bytes(host, way.models), _bytes(host, way.models[:1])
    if host.device.type == "cuda":
        return Memory(both - own, torch.cuda.max_memory_allocated(host.device), "gpu")
    return Memory(both - own, both, "weights")


def _bytes(host: Standalone, names: Sequence[str]) -> int:
    """Return the size of checkpoints that are loaded; what two of them share counts once."""
    models = [host.load(name).model for name in dict.fromkeys(names)]
    tensors = {t.data_ptr(): t for model in models for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _webui(drawer: WebUIDrawer, way: Way) -> Memory:
    mixes = way.settings is not None and way.settings.mixes
    co_models = sum(size for _, size in drawer.loaded()) if mixes else 0
    for kind, keys in (("gpu", ("cuda", "allocated", "peak")), ("process", ("ram", "used"))):
        total = drawer.figure(*keys)
        if total is not None:
            return Memory(co_models, total, kind)
    return Memory(co_models)
