"""Small files in the form of COCO's instances, for the tests of COCO-MIG."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("person", "cat", "dog", "car", "chair", "hot dog", "cup")
WIDTH, HEIGHT = 640, 480

Thing = tuple[str, tuple[float, float, float, float]]
"""A name, and x, y, width and height in pixels."""


def write(file: Path, pictures: Mapping[int, Sequence[Thing]]) -> Path:
    """Write a file with these things in pictures of WIDTH x HEIGHT."""
    numbers = {name: 10 * number + 1 for number, name in enumerate(NAMES)}
    annotations: list[dict[str, Any]] = [
        {"id": 100 * image + n, "image_id": image, "category_id": numbers[name], "bbox": list(box), "iscrowd": 0}
        for image, things in pictures.items()
        for n, (name, box) in enumerate(things)
    ]
    # COCO's annotations of one picture do not stand together
    annotations.sort(key=lambda told: (told["id"] % 100, told["image_id"]))
    told = {
        "images": [{"id": image, "width": WIDTH, "height": HEIGHT} for image in pictures],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    file.write_text(json.dumps(told))
    return file


def random_pictures(count: int, seed: int = 0) -> dict[int, list[Thing]]:
    """Make pictures of 0 to 9 things, some of which are small, and some people."""
    rng = np.random.default_rng(seed)
    return {image: [_thing(rng) for _ in range(rng.integers(10))] for image in range(1, count + 1)}


def _thing(rng: np.random.Generator) -> Thing:
    width, height = rng.uniform(40, 300, 2)
    name = NAMES[0] if rng.random() < 0.05 else NAMES[rng.integers(1, len(NAMES))]
    x, y = rng.uniform(0, WIDTH - width), rng.uniform(0, HEIGHT - height)
    return name, (float(x), float(y), float(width), float(height))
