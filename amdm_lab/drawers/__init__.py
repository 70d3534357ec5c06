"""The ways to draw an order: a WebUI by its API, or the studio."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lib_amdm.errors import AmdmError

from ..drawing import Drawer


def drawer_at(
    url: str,
    login: str,
    models: Path | None,
    device: str = "",
    dtype: str = "",
    adapter_folders: Sequence[Path] = (),
) -> Drawer:
    """Return the WebUI at an address or, without one, the studio with the checkpoints of a folder.

    login: "user:password", or "".
    models: the folder.
    device, dtype: "" for a GPU in half precision if there is one, and otherwise the CPU in single precision.
    adapter_folders: the folders of adapters and their image encoders.
    """
    if url or models is None:
        from .webui_api import WebUIDrawer

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
    precision = getattr(torch, dtype or ("float32" if place.type == "cpu" else "float16"))
    return StandaloneDrawer(Standalone(models, place, precision, adapter_folders=adapter_folders))
