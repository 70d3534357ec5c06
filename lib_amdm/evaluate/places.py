"""The place where a command's pictures are drawn, by its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import AmdmError
from .drawing import Drawer
from .webui_api import WebUIDrawer


def drawer_at(
    url: str,
    login: str,
    models: Path,
    device: str = "",
    dtype: str = "",
    adapter_folders: Sequence[Path] = (),
) -> Drawer:
    """Return the WebUI at an address, or, without one, the standalone host with the checkpoints of the folder `models`.

    device and dtype: "" for a GPU in half precision where there is one, and the CPU in single precision where not.
    """
    if url:
        return WebUIDrawer(url, login)
    if not models.is_dir():
        raise AmdmError(f'--models: "{models}" is no folder; name one with a checkpoint in it.')
    # here, for a WebUI's Python may have no diffusers
    import torch

    from ..hosts.standalone.host import Standalone
    from .standalone import StandaloneDrawer

    on_gpu = torch.cuda.is_available()
    number = getattr(torch, dtype or ("float16" if on_gpu else "float32"))
    host = Standalone(models, device or ("cuda" if on_gpu else "cpu"), number, adapter_folders=adapter_folders)
    return StandaloneDrawer(host)
