"""Orders of pictures, and the interface of what draws them: a running WebUI, or the studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Order:
    """One picture that is wanted."""

    checkpoint: str
    """A file of the drawer's list, without the hash that its title may have."""
    prompt: str
    seed: int
    negative_prompt: str = ""
    settings: Mapping[str, Any] | None = None
    """AMDM's, with the API's names; None leaves AMDM off."""
    sampler: str = ""
    """As the drawer names it; "" for its usual one."""
    schedule: str = ""
    """As the drawer names it; "" for its usual one."""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    """In pixels."""
    height: int = 512
    refiner: tuple[str, float] | None = None
    """A checkpoint that takes over, and at which share of the steps."""


@dataclass(frozen=True)
class Drawn:
    """A picture and what it took."""

    picture: Image.Image
    seconds: float
    """From the order to the picture."""
    infotext: str = ""
    """"" if the drawer writes none."""
    evaluations: Mapping[str, int] = field(default_factory=dict)
    """Of the main model, where the drawer knows them, and of each co-model by its name."""


class Drawer(Protocol):
    """A place that draws pictures, one at a time. AmdmError says in one sentence what is wrong."""

    def draw(self, order: Order) -> Drawn: ...

    def checkpoints(self) -> list[str]:
        """Return the names that an order may have."""
        ...

    def adapters(self) -> list[str]:
        """Return the adapters' names that an order's settings may have."""
        ...

    def description(self) -> str:
        """Name the place in a few words for a table: the WebUI and its version, or the library and its device."""
        ...
