"""The torch module of an adapter's file."""

from __future__ import annotations

from .files import AdapterFile
from .gligen import Gligen
from .interactdiffusion import InteractDiffusion
from .ip_adapter import IPAdapter
from .migc import Migc

AnyAdapter = IPAdapter | Gligen | InteractDiffusion | Migc
KINDS = {adapter.kind: adapter for adapter in (IPAdapter, Gligen, InteractDiffusion, Migc)}


def adapter_of(file: AdapterFile) -> AnyAdapter:
    """The adapter in the file's own dtype, on the CPU; `.to(...)` moves it to the UNet's."""
    return KINDS[file.kind](file)
