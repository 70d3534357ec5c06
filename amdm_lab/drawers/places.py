"""The place where a command's pictures are drawn, by its arguments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lib_amdm.errors import AmdmError

from ..drawing import Drawer
from .webui_api import WebUIDrawer

DTYPES = ("float32", "float16", "bfloat16")


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

    from ..devices import device_of, idle_card
    from ..studio.host import Standalone
    from .studio import StandaloneDrawer

    place = device_of(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not device and place.type == "cpu" and idle_card():
        print(idle_card(), file=sys.stderr)
    number = getattr(torch, dtype or ("float32" if place.type == "cpu" else "float16"))
    return StandaloneDrawer(Standalone(models, place, number, adapter_folders=adapter_folders))
