"""Stand-ins for a drawer and a detector in the tests of COCO-MIG, and entries and pictures for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from amdm_lab.coco_mig.benchmark import Entry, Instance, prompt_of
from amdm_lab.coco_mig.detector import Detections
from amdm_lab.coco_mig.published import LEVELS
from amdm_lab.coco_mig.recipes import Recipe, wanted
from amdm_lab.drawing import Drawer, Drawn, Order
from amdm_lab.runs import draw_missing
from amdm_lab.store import Record, Store

BASE = Order("alpha", "", 100, steps=4, width=64, height=64)
BOXES = [(0.25 * (n % 3), 0.5 * (n // 3), 0.25 * (n % 3) + 0.25, 0.5 * (n // 3) + 0.5) for n in range(6)]


def method(name: str, adapter: str = "MIGC.ckpt") -> Recipe:
    return Recipe(name, name.title(), {"enabled": True, "main_adapter": {"adapter": adapter}})


METHODS = [method("one"), method("two", "ext_interactdiff.pth")]


def entries(levels: Sequence[int] = LEVELS) -> list[Entry]:
    made = []
    for number, level in enumerate(levels):
        instances = tuple(Instance(f"a red {'cat' if n % 2 else 'dog'}", BOXES[n]) for n in range(level))
        made.append(Entry(number, str(number), prompt_of([i.label for i in instances]), instances))
    return made


class Draws:
    """Draws pictures whose pixels say what was ordered; stops before a number of them."""

    def __init__(self, stop_before: int | None = None, stopped: type[BaseException] = KeyboardInterrupt) -> None:
        self.orders: list[Order] = []
        self.stop_before, self.stopped = stop_before, stopped

    def draw(self, order: Order) -> Drawn:
        if len(self.orders) == self.stop_before:
            raise self.stopped
        self.orders.append(order)
        tone = (order.seed * 7 + 100 * ("interact" in str(order.settings))) % 256
        picture = Image.new("RGB", (order.width, order.height), (tone, 0, 0))
        return Drawn(picture, float(len(self.orders)), f"{order.prompt}\nSteps: 4", {"alpha": order.steps})

    def checkpoints(self) -> list[str]:
        return ["alpha.safetensors [0123456789]"]

    def adapters(self) -> list[str]:
        return ["MIGC.ckpt", "ext_interactdiff.pth"]

    def description(self) -> str:
        return "a test"


class Sees:
    """Finds everything in its box in the pictures whose red is brighter than a bar."""

    def __init__(self, bar: int, name: str = "sees") -> None:
        self.bar, self.name, self.asked = bar, name, 0

    def __call__(self, picture: Image.Image, phrase: str) -> Detections:
        self.asked += 1
        found = BOXES if picture.getpixel((0, 0))[0] >= self.bar else []
        return Detections(np.array(found, float).reshape(-1, 4), np.ones(len(found)))


def draw_all(
    store: Store,
    drawer: Drawer,
    ordered: Sequence[Entry] | None = None,
    recipes: Sequence[Recipe] | None = None,
    base: Order = BASE,
) -> list[Record]:
    """Draw what the store does not have of all entries by all recipes."""
    pictures = wanted(entries() if ordered is None else ordered, METHODS if recipes is None else recipes, base)
    return draw_missing(drawer, store, pictures, drawer.description())


def record(store: Store, name: str, entry: Entry, tone: int, seconds: float = 2.0, fresh: bool = False) -> None:
    """Keep a picture of one red, all of whose things are right where the judge finds them."""
    order = {"checkpoint": "alpha", "steps": 4, "cfg_scale": 7.5, "width": 64, "height": 64}
    picture = Image.new("RGB", (64, 64), (tone, 0, 0))
    store.keep(f"{name}/{entry.key}", picture, Record(order, "a test", seconds, fresh=fresh))
