"""Pictures that are kept with what they took, so that a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lib_amdm.command_line import put

from ..checkpoints import by_file
from ..drawing import Drawn, Order
from ..records import counts, made, number, picture_in, write_whole
from .memory import Memory

FOLDER = "pictures"


@dataclass(frozen=True)
class Kept:
    """A picture's file, and what it took."""

    file: Path
    seconds: float
    evaluations: Mapping[str, int]
    memory: Memory

    def picture(self) -> Image.Image:
        return picture_in(self.file)


class Pictures:
    """The pictures of a folder, by all that was asked for and the place that drew them.

    A picture counts once its description beside it is whole.
    """

    def __init__(self, folder: Path, place: str) -> None:
        self.folder, self.place = folder / FOLDER, place
        made(self.folder)

    def find(self, order: Order) -> Kept | None:
        """Return the order's picture, where it has been drawn."""
        described = self._file(order).with_suffix(".json")
        try:
            description = json.loads(described.read_text(encoding="utf-8"))
            memory = Memory(**description["memory"]).checked()
            seconds, evaluations = number(description["seconds"]), counts(description["evaluations"])
            found = Kept(described.with_suffix(".png"), seconds, evaluations, memory)
            found.picture()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found

    def keep(self, order: Order, drawn: Drawn, memory: Memory) -> Kept:
        """Write a picture, and then its description."""
        file = self._file(order)
        unfinished = file.with_suffix(".part")
        drawn.picture.save(unfinished, "PNG")
        put(unfinished, file)
        description = {
            "place": self.place,
            "order": asdict(order),
            "seconds": drawn.seconds,
            "evaluations": dict(drawn.evaluations),
            "memory": asdict(memory),
            "infotext": drawn.infotext,
        }
        write_whole(file.with_suffix(".json"), description)
        return Kept(file, drawn.seconds, drawn.evaluations, memory)

    def _file(self, order: Order) -> Path:
        everything: dict[str, Any] = {"place": self.place, **by_file(asdict(order))}
        key = hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key[:16]}.png"
