"""Long runs that can be stopped: do what is not done yet, keep each part, and go on from there the next time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tqdm import tqdm

from lib_amdm.errors import AmdmError

from .drawing import Drawer, Order
from .memory import MemoryWatch
from .store import Record, Store, order_fields

WARMING_STEPS = 2
"""Sampling steps of the picture that loads what a way needs, and is not kept."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def complete(
    keys: Sequence[Key],
    earlier: Callable[[Key], Value | None],
    make: Callable[[Sequence[Key]], Iterable[Value]],
    batch: int = 1,
    name: Callable[[Key], str] = str,
) -> dict[Key, Value]:
    """Return the value of each key: the kept one, or one made now.

    earlier: returns a key's value from an earlier run, or None.
    make: makes the values of at most `batch` keys, and keeps them.
    name: what the progress bar shows of a key.
    """
    values = {key: value for key in keys if (value := earlier(key)) is not None}
    missing = [key for key in keys if key not in values]
    if values:
        print(f"{len(values)} of {len(keys)} are done already.")
    with tqdm(total=len(keys), initial=len(values), unit="picture", disable=not missing) as progress:
        for begin in range(0, len(missing), batch):
            part = missing[begin : begin + batch]
            progress.set_description(name(part[0]))
            values.update(zip(part, make(part), strict=True))
            progress.update(len(part))
    return {key: values[key] for key in keys}


@dataclass(frozen=True)
class Wanted:
    """A picture to draw. name: its name in the store. way: one of the ways of drawing that are compared."""

    name: str
    order: Order
    way: str


def draw_missing(
    drawer: Drawer, store: Store, wanted: Sequence[Wanted], place: str, warm_up: bool = False
) -> list[Record]:
    """Draw the pictures that the store does not have, in order; return the records of all of them.

    place: the drawer's description, for the records.
    warm_up: before a way's first picture, draw one of two steps and drop it, so that no time includes loading.

    AmdmError if a kept picture was drawn from another order.
    """
    items = {item.name: item for item in wanted}
    memory = MemoryWatch(drawer)
    begun: set[str] = set()

    def earlier(name: str) -> Record | None:
        record = store.drawn(name)
        if record and (changed := _differences(record, items[name].order)):
            raise AmdmError(
                f'"{store.picture(name)}" was drawn with other settings ({", ".join(changed)}); choose another '
                "--out, or the same ones."
            )
        return record

    def make(names: Sequence[str]) -> Iterator[Record]:
        for item in map(items.__getitem__, names):
            fresh = item.way not in begun
            begun.add(item.way)
            if fresh and warm_up:
                drawer.draw(replace(item.order, steps=WARMING_STEPS))
            memory.start()
            drawn = drawer.draw(item.order)
            used = memory.used_by(item.order)
            order = order_fields(item.order)
            record = Record(order, place, drawn.seconds, dict(drawn.evaluations), drawn.infotext, fresh, used)
            store.keep(item.name, drawn.picture, record)
            yield record

    records = complete(list(items), earlier, make, name=lambda name: items[name].way)
    return [records[item.name] for item in wanted]


def _differences(record: Record, order: Order) -> list[str]:
    one, other = record.order, order_fields(order)
    return [name for name in {**other, **one} if one.get(name) != other.get(name)]
