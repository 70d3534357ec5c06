"""The drawers of an evaluation's pictures: a running WebUI, or the standalone host, by one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Order:
    """One picture that is wanted.

    checkpoint: a file of the drawer's list, without the hash that its title may have. settings: AMDM's, with the API's
    names; None leaves AMDM off. sampler and schedule: in the drawer's own words, "" for its usual ones. width and
    height in pixels. refiner: a checkpoint that takes over, and at which share of the steps.
    """

    checkpoint: str
    prompt: str
    seed: int
    negative_prompt: str = ""
    settings: Mapping[str, Any] | None = None
    sampler: str = ""
    schedule: str = ""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    refiner: tuple[str, float] | None = None


@dataclass(frozen=True)
class Drawn:
    """A picture and what it took.

    seconds: from the order to the picture. evaluations: of the main model, where the drawer knows them, and of each
    co-model by its name. infotext: "" where the drawer writes none.
    """

    picture: Image.Image
    seconds: float
    infotext: str = ""
    evaluations: Mapping[str, int] = field(default_factory=dict)


class Drawer(Protocol):
    """A place where pictures are drawn, one at a time. AmdmError says in one sentence what is wrong."""

    def draw(self, order: Order) -> Drawn: ...

    def checkpoints(self) -> list[str]:
        """The names that an order may have."""
        ...

    def adapters(self) -> list[str]:
        """The adapters' names that an order's settings may have."""
        ...

    def description(self) -> str:
        """Name the place in a few words for a table: the WebUI and its version, or the library and its device."""
        ...
