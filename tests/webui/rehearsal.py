"""A WebUI behind the rehearsed card of `card/`: how it is started, and what it says of the card.

AMDM_WEBUI_CARD starts every WebUI of the tests behind it: "plenty" of memory, or a number of megabytes, and in 32 bits;
"native" is plenty of memory and the numbers that the WebUI chooses by itself.
AMDM_WEBUI_CARD_FLAGS are further arguments of theirs, such as --medvram.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hosts import Host
    from .webui_server import WebUI

LAUNCH = Path(__file__).resolve().parent / "card" / "launch.py"
PLENTY = 24 << 10


@dataclass(frozen=True)
class Rehearsal:
    """A card for a WebUI: its size in MB, the WebUI's further arguments and options.

    `native`: it computes there in the numbers that it chooses by itself, whose pictures are not the CPU's.
    """

    megabytes: int = PLENTY
    flags: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    native: bool = False

    @classmethod
    def wanted(cls) -> Rehearsal | None:
        """The rehearsal that the environment asks for."""
        size = os.environ.get("AMDM_WEBUI_CARD")
        if not size:
            return None
        flags = tuple(os.environ.get("AMDM_WEBUI_CARD_FLAGS", "").split())
        return cls(PLENTY if size in ("plenty", "native") else int(size), flags, native=size == "native")

    def arguments(self, host: Host) -> tuple[str, ...]:
        """The WebUI's arguments."""
        return (*host.card_flags, *(() if self.native else host.card_exact), *self.flags)

    def variables(self) -> dict[str, str]:
        return {"AMDM_CARD_MB": str(self.megabytes)}


@dataclass
class Model:
    """A UNet, text encoder or VAE in memory."""

    kind: str
    of: str
    bytes: dict[str, int]
    up: int
    down: int

    @property
    def on_card(self) -> int:
        """Bytes."""
        return self.bytes.get("cuda", 0)

    @property
    def on_cpu(self) -> int:
        """Bytes."""
        return self.bytes.get("cpu", 0)


class Card:
    """The card of a running WebUI with the probe."""

    def __init__(self, server: WebUI) -> None:
        self.server = server

    def script(self, **values: Any) -> dict[str, Any]:
        """Change the script (`card.record.Script`), clear the record, and return what the card says."""
        return self.server.call("/amdm-probe/card", {"clear": True, **values})

    def reset(self) -> None:
        """Let the card be as large and as free of faults as it was in the beginning."""
        self.script(others=0, fault=None, late=1)

    def report(self) -> dict[str, Any]:
        """The events since then."""
        return self.server.call("/amdm-probe/card")

    def models(self, kind: str, of: str, *, collect: bool = False) -> list[Model]:
        """The models of a kind that are in memory; with `collect` those alone that something refers to."""
        told = self.server.call(f"/amdm-probe/census{'?collect=true' if collect else ''}")
        return [model for model in (Model(**each) for each in told) if (model.kind, model.of) == (kind, of)]
