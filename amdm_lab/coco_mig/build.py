"""The benchmark built from COCO's annotations, by the rules of the published sampler (LeyRio/MIG_Bench)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_amdm.errors import AmdmError
from lib_amdm.layout import Box

from ..records import read_json
from .benchmark import Entry, Instance, prompt_of
from .published import COLOURS, ENTRIES, LEAST_SIDE, LEFT_OUT, LEVELS


@dataclass(frozen=True)
class Placed:
    """A thing in a picture of COCO: the name of its category, and its box as shares of the picture."""

    name: str
    box: Box

    @property
    def area(self) -> float:
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


def build(annotations: Path, count: int = ENTRIES, seed: int = 0) -> list[Entry]:
    """Sample `count` entries, a fifth of each level, from a file of COCO's instances, such as instances_val2014.json.

    Every picture of COCO is used once at most, and every prompt.
    """
    rng = random.Random(seed)
    pictures = read_pictures(annotations)
    ids = list(pictures)
    rng.shuffle(ids)
    room = dict.fromkeys(LEVELS, count // len(LEVELS))
    entries: list[Entry] = []
    prompts = set()
    for image_id in ids:
        things = kept_things(pictures[image_id])
        labels = [f"a {rng.choice(list(COLOURS))} {thing.name}" for thing in things]
        prompt = prompt_of(labels)
        if any(thing.name == LEFT_OUT for thing in things) or not room.get(len(things), 0) or prompt in prompts:
            continue
        room[len(things)] -= 1
        prompts.add(prompt)
        instances = tuple(Instance(label, thing.box) for label, thing in zip(labels, things))
        entries.append(Entry(len(entries), str(len(entries)), prompt, instances, image_id))
    if any(room.values()):
        lacking = ", ".join(f"{left} of {level} things" for level, left in room.items() if left)
        raise AmdmError(
            f'"{annotations.name}" has too few layouts for {count} entries (lacking: {lacking}); name COCO\'s '
            "instances_val2014.json, or fewer --entries."
        )
    return entries


def kept_things(things: Sequence[Placed]) -> list[Placed]:
    """Return the things of a picture that are not small, in the file's order.

    Of more than the highest level's number the first so many are kept, the largest first.
    """
    large = [t for t in things if t.box[2] - t.box[0] >= LEAST_SIDE and t.box[3] - t.box[1] >= LEAST_SIDE]
    most = LEVELS[-1]
    return large if len(large) <= most else sorted(large[:most], key=lambda thing: thing.area, reverse=True)


def read_pictures(annotations: Path) -> dict[str, list[Placed]]:
    """Read the things of each picture, in the file's order; AmdmError if it is no file of COCO's instances."""
    content = read_json(annotations, "COCO's annotations, such as instances_val2014.json")
    try:
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        sizes = {image["id"]: (float(image["width"]), float(image["height"])) for image in content["images"]}
        pictures: dict[str, list[Placed]] = defaultdict(list)
        for annotation in content["annotations"]:
            pictures[str(annotation["image_id"])].append(
                Placed(names[annotation["category_id"]], _shares(annotation, sizes))
            )
    except (TypeError, KeyError, ValueError, ZeroDivisionError) as error:
        raise AmdmError(
            f'"{annotations.name}" does not have the form of COCO\'s instances, with images, annotations and '
            "categories; name instances_val2014.json."
        ) from error
    return dict(pictures)


def _shares(annotation: Mapping[str, Any], sizes: Mapping[Any, tuple[float, float]]) -> Box:
    width, height = sizes[annotation["image_id"]]
    x, y, w, h = map(float, annotation["bbox"])
    return x / width, y / height, min(1.0, (x + w) / width), min(1.0, (y + h) / height)
