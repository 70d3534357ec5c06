"""Whole pictures through a WebUI's API: what can be seen from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..drawers.webui_api import WebUIDrawer
from ..drawing import Order
from .loop import STEPS
from .on_standalone import PROMPT, settings_of
from .table import Measurement, freed, megabytes


def rows(drawer: WebUIDrawer, names: Sequence[str], side: int) -> Iterator[Measurement]:
    """Yield a row for the first checkpoint alone, and for each number of the others with it. side: in pixels."""
    place = drawer.description()
    drawer.unload()
    for count in range(len(names)):
        settings = settings_of(names[1 : 1 + count])
        order = Order(names[0], PROMPT, 1, settings=settings, steps=STEPS, width=side, height=side)
        first = drawer.draw(order)
        loaded = drawer.loaded()
        second = drawer.draw(order)
        again = drawer.loaded()
        loading = "the same co-models loaded" if again == loaded else "other co-models loaded"
        yield Measurement(
            place,
            names[0],
            count,
            " + ".join(["main", *map(str, second.evaluations.values())]),
            second.seconds,
            peak=gpu_memory(drawer, "peak"),
            placed=f"co-models {megabytes(sum(size for _, size in again))} MB" if again else "",
            second=f"{first.seconds:.1f} s, then {second.seconds:.1f} s" + (f", {loading}" if count else ""),
            leaving=_unload(drawer) if count == len(names) - 1 else "",
        )


def gpu_memory(drawer: WebUIDrawer, which: str) -> int | None:
    """Return the WebUI's figure of the GPU's memory: "current", or the "peak" since its start. None without a GPU."""
    return drawer.figure("cuda", "allocated", which)


def _unload(drawer: WebUIDrawer) -> str:
    before = gpu_memory(drawer, "current")
    count, size = drawer.unload()
    return f"unloading: {count} co-models of {megabytes(size)} MB{freed(before, gpu_memory(drawer, 'current'))}"
