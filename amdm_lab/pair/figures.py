"""The figures of a page: of each picture, and the medians of each way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from torch import Tensor

from ..records import picture_in
from ..store import MemoryUse, Record
from .similarity import Clip
from .subjects import Subject
from .ways import Way

SAME_TIME = 0.05
"""Of the main model's time: a smaller difference counts as none."""


@dataclass(frozen=True)
class Figure:
    """A picture and its figures."""

    file: Path
    record: Record
    size: tuple[int, int]
    moved: float
    """The mean difference of its pixels from the main model's picture, in grey levels of 255."""
    features_moved: float | None = None
    """1 minus the cosine of the two pictures' CLIP features."""
    to_main: float | None = None
    """CLIP's similarity to the main model's prompt."""
    to_co: float | None = None
    """CLIP's similarity to the co-model's prompt."""


@dataclass(frozen=True)
class WaySummary:
    """A way, and the medians of its pictures."""

    way: Way
    seconds: float
    extra: float
    """Seconds more than the main model alone for the same subject."""
    share: float
    """`extra` as a share of the main model's seconds."""
    evaluations: str
    memory: MemoryUse
    moved: float
    features_moved: float | None
    to_main: float | None
    to_co: float | None

    @property
    def distance(self) -> float:
        """The distance that it moved, by CLIP's features if there are some."""
        return self.moved if self.features_moved is None else self.features_moved

    @property
    def cost(self) -> int:
        """Its extra time in steps of SAME_TIME."""
        return max(round(self.share / SAME_TIME), 0)


def figures(files: Sequence[Path], records: Sequence[Record], subject: Subject, clip: Clip | None) -> list[Figure]:
    """Return the figures of a subject's pictures, one for each way; the first is the main model alone."""
    pictures = [picture_in(file) for file in files]
    views = [clip.view(picture, [subject.prompt, subject.prompt_for_co]) for picture in pictures] if clip else None
    of_all = []
    for number, (file, record, picture) in enumerate(zip(files, records, pictures)):
        further: tuple[float, ...] = ()
        if views:
            features, similarities = views[number]
            further = (_apart(features, views[0][0]), *similarities)
        of_all.append(Figure(file, record, picture.size, difference(picture, pictures[0]), *further))
    return of_all


def difference(picture: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference of two pictures' pixels, in grey levels of 255."""
    one, two = (np.asarray(of.convert("RGB"), dtype=np.float32) for of in (picture, other.resize(picture.size)))
    return float(np.abs(one - two).mean())


def _apart(features: Tensor, other: Tensor) -> float:
    return max(1 - float(features @ other), 0.0)


def summaries(ways: Sequence[Way], of_subjects: Sequence[Sequence[Figure]]) -> list[WaySummary]:
    """Summarise each way. of_subjects: the figures of each subject, one for each way."""
    columns = list(zip(*of_subjects))
    main_seconds = median(figure.record.seconds for figure in columns[0])
    # compared with the main model's picture of the same subject, which was drawn right before it
    extra = [
        median(figure.record.seconds - main.record.seconds for figure, main in zip(column, columns[0]))
        for column in columns
    ]
    return [
        WaySummary(
            way,
            median(figure.record.seconds for figure in column),
            further,
            further / max(main_seconds, 1e-9),
            _evaluations(way, column[0].record),
            max((figure.record.memory for figure in column), key=lambda memory: memory.total),
            median(figure.moved for figure in column),
            _median([figure.features_moved for figure in column]),
            _median([figure.to_main for figure in column]),
            _median([figure.to_co for figure in column]),
        )
        for way, further, column in zip(ways, extra, columns)
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _evaluations(way: Way, record: Record) -> str:
    """Write the evaluations: "20 + 4", "main + 4" where only the co-model's are known, or nothing."""
    main = record.evaluations.get(way.checkpoint)
    others = [count for name, count in record.evaluations.items() if name != way.checkpoint]
    return " + ".join(map(str, ["main" if main is None else main, *others])) if record.evaluations else ""


def efficient(rows: Sequence[WaySummary]) -> list[WaySummary]:
    """Return the rows that no other row beats, the quickest first: none moved as far in less time."""
    unbeaten: list[WaySummary] = []
    for row in sorted(rows, key=lambda row: (row.cost, -row.distance)):
        if not unbeaten or row.distance > unbeaten[-1].distance:
            unbeaten.append(row)
    return unbeaten
