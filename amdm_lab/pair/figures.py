"""The figures of a page: of each picture, and of each way by its median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image
from torch import Tensor

from .kept import Kept
from .memory import Memory
from .similarity import Clip
from .subjects import Subject
from .ways import Way

SAME_TIME = 0.05
"""Of the main model's time: what differs by less counts as the same."""


@dataclass(frozen=True)
class Figure:
    """A picture and its figures.

    moved: the mean difference of its pixels from the main model's picture, in grey levels of 255. features_moved: 1
    minus the cosine of the two pictures' CLIP features. to_main, to_co: its CLIP similarity to either prompt.
    """

    kept: Kept
    moved: float
    features_moved: float | None = None
    to_main: float | None = None
    to_co: float | None = None


@dataclass(frozen=True)
class Row:
    """A way, and the medians of its pictures.

    extra: seconds more than the main model alone for the same subject. share: of the main model's seconds.
    """

    way: Way
    seconds: float
    extra: float
    share: float
    evaluations: str
    memory: Memory
    moved: float
    features_moved: float | None
    to_main: float | None
    to_co: float | None

    @property
    def distance(self) -> float:
        """The distance that it moved, by CLIP's features where there are some."""
        return self.moved if self.features_moved is None else self.features_moved

    @property
    def cost(self) -> int:
        """Its further time in parts of the main model's that are large enough to be told apart."""
        return max(round(self.share / SAME_TIME), 0)


def figures(kept: Sequence[Kept], subject: Subject, clip: Clip | None) -> list[Figure]:
    """Return a subject's figures, for each way; the first is the main model alone."""
    pictures = [each.picture() for each in kept]
    seen = [clip.seen(picture, [subject.prompt, subject.prompt_for_co]) for picture in pictures] if clip else None
    found = []
    for number, (each, picture) in enumerate(zip(kept, pictures)):
        further: tuple[float, ...] = ()
        if seen:
            features, similarities = seen[number]
            further = (_apart(features, seen[0][0]), *similarities)
        found.append(Figure(each, difference(picture, pictures[0]), *further))
    return found


def difference(picture: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference of two pictures' pixels, in grey levels of 255."""
    one, two = (np.asarray(each.convert("RGB"), dtype=np.float32) for each in (picture, other.resize(picture.size)))
    return float(np.abs(one - two).mean())


def _apart(features: Tensor, other: Tensor) -> float:
    return max(1 - float(features @ other), 0.0)


def rows(all_ways: Sequence[Way], found: Sequence[Sequence[Figure]]) -> list[Row]:
    """Return a row for each way; found: the figures of each subject, one for each way."""
    columns = list(zip(*found))
    own = median(figure.kept.seconds for figure in columns[0])
    # each beside the main model's picture of the same subject, which was drawn next to it
    extra = [
        median(figure.kept.seconds - main.kept.seconds for figure, main in zip(column, columns[0]))
        for column in columns
    ]
    return [
        Row(
            way,
            median(figure.kept.seconds for figure in column),
            further,
            further / max(own, 1e-9),
            _evaluations(way, column[0].kept),
            max((figure.kept.memory for figure in column), key=lambda memory: memory.total),
            median(figure.moved for figure in column),
            _median([figure.features_moved for figure in column]),
            _median([figure.to_main for figure in column]),
            _median([figure.to_co for figure in column]),
        )
        for way, further, column in zip(all_ways, extra, columns)
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _evaluations(way: Way, kept: Kept) -> str:
    """Write the evaluations that the place told: "20 + 4", "main + 4" where it told only the co-model's, or nothing."""
    main = kept.evaluations.get(way.checkpoint)
    others = [count for name, count in kept.evaluations.items() if name != way.checkpoint]
    return " + ".join(map(str, ["main" if main is None else main, *others])) if kept.evaluations else ""


def efficient(candidates: Sequence[Row]) -> list[Row]:
    """Return the rows than which none moved as far in less time, or farther in the same, from the quickest on."""
    kept: list[Row] = []
    for row in sorted(candidates, key=lambda row: (row.cost, -row.distance)):
        if not kept or row.distance > kept[-1].distance:
            kept.append(row)
    return kept
