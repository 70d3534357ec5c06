"""Drawing every subject in every way, one picture at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..drawing import Drawer
from .kept import Kept, Pictures
from .memory import memory_after, prepare
from .subjects import Subject
from .ways import Pair, Way

WARMING_STEPS = 2


def draw_all(
    drawer: Drawer,
    pair: Pair,
    all_ways: Sequence[Way],
    subjects: Sequence[Subject],
    pictures: Pictures,
    say: Callable[[str], None] = print,
) -> list[list[Kept]]:
    """Return each subject's pictures, one for each way; those that are kept already are not drawn again.

    The ways of one main checkpoint take turns, so that it is loaded once and a machine that grows slower does so for
    all of them. Before them a picture of two steps is drawn in each and left, so that loading is in none of the times.
    """
    found = {(way, subject): pictures.find(way.order(pair, subject)) for way in all_ways for subject in subjects}
    total, missing = len(found), sum(kept is None for kept in found.values())
    if missing < total:
        say(f"{total - missing} of {total} pictures are there already.")
    began, done = time.monotonic(), 0
    for group in _groups(all_ways):
        due = [(way, subject) for subject in subjects for way in group if found[way, subject] is None]
        for way in dict.fromkeys(way for way, _ in due):
            drawer.draw(way.order(pair, subjects[0], steps=WARMING_STEPS))
        for way, subject in due:
            prepare(drawer)
            order = way.order(pair, subject)
            drawn = drawer.draw(order)
            found[way, subject] = pictures.keep(order, drawn, memory_after(drawer, way))
            done += 1
            left = (time.monotonic() - began) / done * (missing - done)
            say(f"{total - missing + done}/{total} {way.caption}: {drawn.seconds:.1f} s, {_minutes(left)} left")
    return [[kept for way in all_ways if (kept := found[way, subject])] for subject in subjects]


def _groups(all_ways: Sequence[Way]) -> list[list[Way]]:
    """Return the ways by what is loaded as the main checkpoint, each way with a refiner by itself."""
    groups: dict[object, list[Way]] = {}
    for way in all_ways:
        groups.setdefault((way.checkpoint, way.refiner), []).append(way)
    return list(groups.values())


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
