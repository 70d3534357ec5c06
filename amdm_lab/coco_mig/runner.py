"""Pictures drawn one at a time into a folder, and gone on with where they were interrupted.

Each picture is two files, `METHOD/KEY.png` and then `METHOD/KEY.json`, its record: a picture without a record is drawn
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from lib_amdm.command_line import put
from lib_amdm.errors import AmdmError

from ..checkpoints import by_file
from ..drawing import Drawer, Drawn, Order
from ..records import counts, made, number, write_whole
from .benchmark import VERDICT, Entry, read_json
from .methods import Method


@dataclass(frozen=True)
class Drawing:
    """The settings of all pictures of an evaluation. An entry's seed is `seed` and the entry's number."""

    checkpoint: str
    negative_prompt: str = ""
    sampler: str = ""
    schedule: str = ""
    steps: int = 50
    cfg_scale: float = 7.5
    size: int = 512
    seed: int = 0

    def order(self, entry: Entry, method: Method) -> Order:
        return Order(
            checkpoint=self.checkpoint,
            prompt=entry.caption,
            seed=self.seed + entry.number,
            negative_prompt=self.negative_prompt,
            settings=method.of(entry),
            sampler=self.sampler,
            schedule=self.schedule,
            steps=self.steps,
            cfg_scale=self.cfg_scale,
            width=self.size,
            height=self.size,
        )


@dataclass(frozen=True)
class Record:
    """A picture that was drawn. fresh: the first of its method since the drawing began, which loads what it needs."""

    order: dict[str, Any]
    seconds: float
    fresh: bool
    place: str
    evaluations: dict[str, int] = field(default_factory=dict)
    infotext: str = ""


class Folder:
    """The pictures and records of an evaluation, and what was judged of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def picture(self, method: str, key: str) -> Path:
        return self.root / method / f"{key}.png"

    def record_file(self, method: str, key: str) -> Path:
        return self.root / method / f"{key}.json"

    def verdict_file(self, method: str, key: str) -> Path:
        return self.root / method / f"{key}{VERDICT}.json"

    def record(self, method: str, key: str) -> Record | None:
        """Return the record of a picture, None where it is not drawn yet."""
        file = self.record_file(method, key)
        if not (file.is_file() and self.picture(method, key).is_file()):
            return None
        try:
            record = Record(**read_json(file, "a record"))
            evaluations = counts(record.evaluations)
            return replace(record, order=by_file(record.order), seconds=number(record.seconds), evaluations=evaluations)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AmdmError(f'"{file}" is not a record of a picture; remove it, or choose another --out.') from error

    def keep(self, method: str, key: str, record: Record, drawn: Drawn) -> None:
        """Write a picture and then its record, each whole or not at all."""
        file = self.picture(method, key)
        made(file.parent)
        text = PngInfo()
        text.add_text("parameters", drawn.infotext)
        unfinished = file.with_suffix(".part")
        drawn.picture.save(unfinished, "PNG", pnginfo=text)
        put(unfinished, file)
        # what was judged of an earlier picture of this name does not hold for this one
        self.verdict_file(method, key).unlink(missing_ok=True)
        write_whole(self.record_file(method, key), asdict(record))


def draw_all(
    folder: Folder, drawer: Drawer, drawing: Drawing, entries: Sequence[Entry], methods: Sequence[Method]
) -> int:
    """Draw what is not drawn yet, entry by entry, and return how many pictures that were."""
    left = list(_left(folder, drawing, entries, methods))
    total = len(entries) * len(methods)
    place = drawer.description() if left else ""
    begun: set[str] = set()
    with tqdm(total=total, initial=total - len(left), unit="picture") as progress:
        for entry, method, order in left:
            progress.set_description(f"{method.name} {entry.key}")
            drawn = drawer.draw(order)
            fresh = method.name not in begun
            begun.add(method.name)
            record = Record(asdict(order), drawn.seconds, fresh, place, dict(drawn.evaluations), drawn.infotext)
            folder.keep(method.name, entry.key, record, drawn)
            progress.update()
    return len(left)


def _left(
    folder: Folder, drawing: Drawing, entries: Sequence[Entry], methods: Sequence[Method]
) -> Iterator[tuple[Entry, Method, Order]]:
    for entry in entries:
        for method in methods:
            order = drawing.order(entry, method)
            record = folder.record(method.name, entry.key)
            if record is None:
                yield entry, method, order
            elif differences := _differences(record.order, json.loads(json.dumps(by_file(asdict(order))))):
                raise AmdmError(
                    f'"{folder.picture(method.name, entry.key)}" was drawn with other settings '
                    f"({', '.join(differences)}); choose another --out, or the same ones."
                )


def _differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in {**other, **one} if one.get(name) != other.get(name)]
