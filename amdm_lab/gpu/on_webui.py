"""Whole pictures through a WebUI's API: what can be seen from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..drawers.webui_api import WebUIDrawer
from ..drawing import Drawn, Order
from .loop import EVALUATIONS, MIXED, STEPS
from .on_standalone import PROMPT
from .table import Row, megabytes


def rows(drawer: WebUIDrawer, names: Sequence[str], side: int) -> Iterator[Row]:
    """Yield a row for the first checkpoint alone, and for each number of the others beside it. side: in pixels."""
    place = drawer.description()
    drawer.unload()
    for count in range(len(names)):
        first = _draw(drawer, names, count, side)
        loaded = drawer.loaded()
        second = _draw(drawer, names, count, side)
        again = drawer.loaded()
        kept = "the same co-models loaded" if again == loaded else "other co-models loaded"
        yield Row(
            place,
            names[0],
            count,
            " + ".join(["main", *(str(each) for each in second.evaluations.values())]),
            second.seconds,
            peak=_gpu(drawer, "peak"),
            placed=f"co-models {megabytes(sum(size for _, size in again))} MB" if again else "",
            second=f"{first.seconds:.1f} s, then {second.seconds:.1f} s" + (f", {kept}" if count else ""),
            leaving=_unloaded(drawer) if count == len(names) - 1 else "",
        )


def _draw(drawer: WebUIDrawer, names: Sequence[str], count: int, side: int) -> Drawn:
    slots: list[dict[str, Any]] = [{"checkpoint": name, "gamma": 0.5 / count} for name in names[1 : 1 + count]]
    settings = {"enabled": True, "steps": MIXED, "evaluations": EVALUATIONS, "co_models": slots}
    return drawer.draw(Order(names[0], PROMPT, 1, settings=settings, steps=STEPS, width=side, height=side))


def _gpu(drawer: WebUIDrawer, which: str) -> int | None:
    """Return the WebUI's own figure of the GPU's memory, since its start where it is a peak; None without a GPU."""
    return drawer.figure("cuda", "allocated", which)


def _unloaded(drawer: WebUIDrawer) -> str:
    before = _gpu(drawer, "current")
    count, size = drawer.unload()
    after = _gpu(drawer, "current")
    freed = f", {megabytes(before - after)} MB freed" if before is not None and after is not None else ""
    return f"unloading: {count} co-models of {megabytes(size)} MB{freed}"
