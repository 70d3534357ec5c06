"""The published judge: an instance is right if it is in its box and has its colour.

An instance's overlap is that of its box with the best detection of its name. An instance in its place without its
colour has overlap 0. One that is not in its place keeps its overlap, and its colour is not tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from lib_amdm.errors import AmdmError
from lib_amdm.layout import Box

from ..records import number, read_json, write_whole
from ..runs import complete
from ..store import Store
from .benchmark import Entry
from .colours import colour_share
from .detector import Detections, Detector
from .published import LEAST_COLOUR, LEAST_OVERLAP, SIZE
from .recipes import Recipe, picture_name
from .segmenter import Segmenter


@dataclass(frozen=True)
class Verdict:
    """The judgement of an instance."""

    found: float
    """The overlap of its box with the best detection."""
    colour: float | None = None
    """The share of its pixels that have its colour; None if the instance is not in its place."""

    @property
    def success(self) -> bool:
        return self.found >= LEAST_OVERLAP and self.colour is not None and self.colour >= LEAST_COLOUR

    @property
    def overlap(self) -> float:
        """The instance's part of mIoU."""
        return self.found if self.success or self.found < LEAST_OVERLAP else 0.0


def overlaps(box: Box, boxes: np.ndarray) -> np.ndarray:
    """Return intersection over union of a box with each of `boxes` (n, 4)."""
    wanted = np.asarray(box)
    sides = np.minimum(boxes[:, 2:], wanted[2:]) - np.maximum(boxes[:, :2], wanted[:2])
    both = np.clip(sides, 0, None).prod(-1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + (wanted[2:] - wanted[:2]).prod()
    return both / (areas - both)


def judge(picture: Image.Image, entry: Entry, detector: Detector, segmenter: Segmenter) -> list[Verdict]:
    """Judge a picture's instances."""
    picture = picture.convert("RGB")
    if picture.size != (SIZE, SIZE):
        picture = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    detections = {name: detector(picture, name) for name in {instance.name for instance in entry.instances}}
    best = [_best(instance.box, detections[instance.name]) for instance in entry.instances]
    placed = [number for number, overlap in enumerate(best) if overlap >= LEAST_OVERLAP]
    masks = dict(zip(placed, segmenter(picture, [entry.instances[number].box for number in placed])))
    pixels = np.asarray(picture)
    return [
        Verdict(overlap, colour_share(pixels, instance.colour, masks[number]) if number in masks else None)
        for number, (instance, overlap) in enumerate(zip(entry.instances, best))
    ]


def _best(box: Box, detections: Detections) -> float:
    return float(overlaps(box, detections.boxes).max()) if len(detections.boxes) else 0.0


@dataclass(frozen=True)
class Judgement:
    """The verdicts on a picture's instances. judges: the names of the detector and the segmenter."""

    judges: tuple[str, str]
    verdicts: list[Verdict]


def judge_all(
    store: Store, entries: Sequence[Entry], recipes: Sequence[Recipe], detector: Detector, segmenter: Segmenter
) -> dict[str, Judgement]:
    """Judge the pictures that are drawn and that these judges have not judged yet; return all judgements by name."""
    judges = detector.name, segmenter.name
    drawn = {
        name: entry
        for recipe in recipes
        for entry in entries
        if store.record(name := picture_name(recipe, entry)) is not None
    }

    def earlier(name: str) -> Judgement | None:
        judgement = judgement_of(store, name, drawn[name])
        return judgement if judgement and judgement.judges == judges else None

    def make(names: Sequence[str]) -> Iterator[Judgement]:
        for name in names:
            try:
                picture = store.read(name)
            except ValueError as error:
                raise AmdmError(
                    f'"{store.picture(name)}" cannot be read ({error}); remove it, and have it drawn again.'
                ) from error
            judgement = Judgement(judges, judge(picture, drawn[name], detector, segmenter))
            instances = [asdict(verdict) for verdict in judgement.verdicts]
            write_whole(store.verdict_file(name), {"judges": judges, "instances": instances})
            yield judgement

    return complete(list(drawn), earlier, make)


def judgement_of(store: Store, name: str, entry: Entry) -> Judgement | None:
    """Return the judgement of a picture, or None if not all of its instances were judged."""
    file = store.verdict_file(name)
    if not file.is_file():
        return None
    content = read_json(file, "what was judged")
    try:
        verdicts = [
            Verdict(number(verdict["found"]), None if verdict["colour"] is None else number(verdict["colour"]))
            for verdict in content["instances"]
        ]
        detector, segmenter = content["judges"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AmdmError(f'"{file}" does not say what was judged; remove it.') from error
    return Judgement((str(detector), str(segmenter)), verdicts) if len(verdicts) == entry.level else None
