"""The published judge: an instance is right that stands in its box and has its colour.

An instance's overlap is that of its box with the best detection of its name. One that is in its place without its
colour has overlap 0; one that is not in its place keeps the overlap that it has, and its colour is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image
from tqdm import tqdm

from lib_amdm.errors import AmdmError
from lib_amdm.layout import Box

from ..records import number, picture_in, write_whole
from .benchmark import Entry, read_json
from .colours import colour_share
from .detector import Detections, Detector
from .methods import Method
from .published import LEAST_COLOUR, LEAST_OVERLAP, SIZE
from .runner import Folder
from .segmenter import Segmenter


@dataclass(frozen=True)
class Verdict:
    """An instance as it was judged. found: its overlap with the best detection. colour: the share of its pixels that
    have its colour; None where it was not asked."""

    found: float
    colour: float | None = None

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
    seen: dict[str, Detections] = {name: detector(picture, name) for name in {i.name for i in entry.instances}}
    found = [_best(instance.box, seen[instance.name]) for instance in entry.instances]
    placed = [number for number, overlap in enumerate(found) if overlap >= LEAST_OVERLAP]
    masks = dict(zip(placed, segmenter(picture, [entry.instances[number].box for number in placed])))
    pixels = np.asarray(picture)
    return [
        Verdict(overlap, colour_share(pixels, instance.colour, masks[number]) if number in masks else None)
        for number, (instance, overlap) in enumerate(zip(entry.instances, found))
    ]


def _best(box: Box, detections: Detections) -> float:
    return float(overlaps(box, detections.boxes).max()) if len(detections.boxes) else 0.0


def judge_all(
    folder: Folder, entries: Sequence[Entry], methods: Sequence[Method], detector: Detector, segmenter: Segmenter
) -> int:
    """Judge the pictures that are drawn and that this judge has not judged yet; return how many that were."""
    judges = [detector.name, segmenter.name]
    left = [
        (method, entry)
        for method in methods
        for entry in entries
        if folder.record(method.name, entry.key) and _kept(folder, method.name, entry, judges) is None
    ]
    for method, entry in tqdm(left, unit="picture", desc="judged"):
        file = folder.picture(method.name, entry.key)
        try:
            picture = picture_in(file)
        except ValueError as error:
            raise AmdmError(f'"{file}" cannot be read ({error}); remove it, and have it drawn again.') from error
        verdicts = judge(picture, entry, detector, segmenter)
        judged = {"judges": judges, "instances": [asdict(verdict) for verdict in verdicts]}
        write_whole(folder.verdict_file(method.name, entry.key), judged)
    return len(left)


def verdicts_of(folder: Folder, method: str, entry: Entry) -> list[Verdict] | None:
    """Return what was judged of a picture, None where nothing was."""
    return _kept(folder, method, entry, None)


def judges_of(folder: Folder, method: str, entry: Entry) -> tuple[str, ...]:
    """Return the names of the detector and the segmenter that judged a picture."""
    kept = _read(folder, method, entry)
    return kept[0] if kept else ()


def _kept(folder: Folder, method: str, entry: Entry, judges: list[str] | None) -> list[Verdict] | None:
    kept = _read(folder, method, entry)
    if kept is None or (judges is not None and list(kept[0]) != judges):
        return None
    return kept[1] if len(kept[1]) == entry.level else None


def _read(folder: Folder, method: str, entry: Entry) -> tuple[tuple[str, ...], list[Verdict]] | None:
    """Return the two judges of a picture, and what they said; None where nothing was judged."""
    file = folder.verdict_file(method, entry.key)
    if not file.is_file():
        return None
    judged = read_json(file, "what was judged")
    try:
        verdicts = [
            Verdict(number(each["found"]), None if each["colour"] is None else number(each["colour"]))
            for each in judged["instances"]
        ]
        detector, segmenter = judged["judges"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AmdmError(f'"{file}" does not say what was judged; remove it.') from error
    return (str(detector), str(segmenter)), verdicts
