"""A folder of pictures, each kept with a record of its order and of what it took.

A picture is two files, `NAME.png` and `NAME.json`. The record is written last, so a picture without one is drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lib_amdm.command_line import put
from lib_amdm.errors import AmdmError

from .checkpoints import by_file
from .drawing import Order
from .records import counts, made, number, picture_in, read_json, write_whole

VERDICT = ".judged"
"""The end of a verdict's name, between the picture's name and the suffix."""


MEMORY_KINDS = {
    "weights": "the weights of the models that it runs",
    "gpu": "the most that the GPU had held by then",
    "process": "the WebUI's whole process after it",
    "": "not known",
}


@dataclass(frozen=True)
class MemoryUse:
    """co_models: bytes of the co-models that AMDM keeps. total: bytes of what `kind`, a key of MEMORY_KINDS, says."""

    co_models: int = 0
    total: int = 0
    kind: str = ""

    def checked(self) -> MemoryUse:
        """Return the same numbers as integers; ValueError if this does not describe memory."""
        if self.kind not in MEMORY_KINDS:
            raise ValueError("no such kind of memory")
        return MemoryUse(int(number(self.co_models)), int(number(self.total)), self.kind)


@dataclass(frozen=True)
class Record:
    """A picture that was drawn, and what it took."""

    order: Mapping[str, Any]
    """The fields of the `Order`."""
    place: str
    """The drawer's description."""
    seconds: float
    evaluations: Mapping[str, int] = field(default_factory=dict)
    infotext: str = ""
    fresh: bool = False
    """True for the first picture of its way in a run, which may have loaded models."""
    memory: MemoryUse = MemoryUse()

    def checked(self) -> Record:
        """Return the same record; an error of reading if it does not have a record's form."""
        return replace(
            self,
            order=by_file(self.order),
            seconds=number(self.seconds),
            evaluations=counts(self.evaluations),
            memory=self.memory if isinstance(self.memory, MemoryUse) else MemoryUse(**self.memory).checked(),
        )


class Store:
    """Pictures by name, with their records and verdicts. A name may have a folder: "paper/17"."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def picture(self, name: str) -> Path:
        return self.root / f"{name}.png"

    def record_file(self, name: str) -> Path:
        return self.root / f"{name}.json"

    def verdict_file(self, name: str) -> Path:
        return self.root / f"{name}{VERDICT}.json"

    def record(self, name: str) -> Record | None:
        """Return a picture's record, or None if there is no picture; AmdmError for a damaged record."""
        file = self.record_file(name)
        if not (file.is_file() and self.picture(name).is_file()):
            return None
        try:
            return Record(**read_json(file, "a record")).checked()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AmdmError(f'"{file}" is not a record of a picture; remove it, or choose another --out.') from error

    def drawn(self, name: str) -> Record | None:
        """Return a picture's record, or None if the picture has to be drawn: it is missing or damaged."""
        try:
            record = self.record(name)
            if record:
                self.read(name)
        except (AmdmError, ValueError):
            return None
        return record

    def read(self, name: str) -> Image.Image:
        """Return a picture; ValueError if it cannot be read."""
        return picture_in(self.picture(name))

    def keep(self, name: str, picture: Image.Image, record: Record) -> None:
        """Write a picture and then its record, each whole or not at all."""
        file = self.picture(name)
        made(file.parent)
        text = PngInfo()
        text.add_text("parameters", record.infotext)
        unfinished = file.with_name(f"{file.name}.part")
        picture.save(unfinished, "PNG", pnginfo=text)
        put(unfinished, file)
        # a verdict on an earlier picture of this name does not apply to this one
        self.verdict_file(name).unlink(missing_ok=True)
        write_whole(self.record_file(name), asdict(record))


def order_fields(order: Order) -> dict[str, Any]:
    """Return an order's fields as a record keeps them, checkpoints by their files."""
    return dict(json.loads(json.dumps(by_file(asdict(order)))))
