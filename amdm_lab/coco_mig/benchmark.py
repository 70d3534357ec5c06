"""The benchmark's entries: coloured instances in boxes, and the prompt; `mig_bench.json` read and written."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_amdm.errors import AmdmError, clipped, short
from lib_amdm.layout import Box, Interaction, Layout, LayoutError, Region

from ..records import NAMED_BY, fits_a_file, read_json
from ..store import VERDICT
from .published import COLOURS, LEVELS


@dataclass(frozen=True)
class Instance:
    """A thing that is wanted: "a red cat" has the colour red and the name cat."""

    label: str
    box: Box

    @property
    def colour(self) -> str:
        return self.label.split()[1]

    @property
    def name(self) -> str:
        return " ".join(self.label.split()[2:])


@dataclass(frozen=True)
class Entry:
    """One picture that is wanted.

    number: its place in the file, from 0. key: its name there. image_id: the picture in COCO that the boxes are of.
    """

    number: int
    key: str
    caption: str
    instances: tuple[Instance, ...]
    image_id: str = ""

    @property
    def level(self) -> int:
        return len(self.instances)

    def layout(self, action: str = "and") -> Layout:
        """Lay out the instances, each of which acts on itself, as in the paper's code: COCO-MIG has no interactions."""
        regions = tuple(Region(instance.label, instance.box) for instance in self.instances)
        return Layout(regions, tuple(Interaction(n, action, n) for n in range(len(regions))))


def prompt_of(labels: Sequence[str]) -> str:
    """Write the published form of a prompt: "a photo of a red cat and a blue dog"."""
    return "a photo of " + " and ".join(labels)


def read(file: Path) -> list[Entry]:
    """Read a file of the published form; AmdmError names the entry that is not of it."""
    content = read_json(file, "a benchmark, such as the mig_bench.json of the paper's code")
    if not isinstance(content, Mapping) or not content:
        raise AmdmError(f'"{file.name}" is no benchmark: it must be an object of entries, as mig_bench.json is.')
    _check_keys(content, file)
    return [
        _entry(f'entry "{key}" of "{file.name}"', number, key, entry)
        for number, (key, entry) in enumerate(content.items())
    ]


def _check_keys(keys: Iterable[str], file: Path) -> None:
    """AmdmError if a key cannot be the name of its picture's file."""
    seen: dict[str, str] = {}
    for key in keys:
        if not fits_a_file(key) or key.lower().endswith(VERDICT):
            raise AmdmError(
                f'Entry "{clipped(key)}" of "{file.name}" must be named by {NAMED_BY}, and as no device of Windows is, '
                "for its picture's file has that name; rename it."
            )
        other = seen.setdefault(unicodedata.normalize("NFC", key).casefold(), key)
        if other != key:
            raise AmdmError(f'Entry "{key}" of "{file.name}" differs from "{other}" in capitals alone; rename one.')


def write(entries: Sequence[Entry], file: Path) -> None:
    """Write entries in the published form."""
    published = {
        entry.key: {
            "caption": entry.caption,
            "segment": [{"bbox": list(instance.box), "label": instance.label} for instance in entry.instances],
            "image_id": entry.image_id,
        }
        for entry in entries
    }
    file.write_text(json.dumps(published), encoding="utf-8")


def first_of_each_level(entries: Sequence[Entry], count: int) -> list[Entry]:
    """Return `count` entries, the first fifth of them of each level that there are so many of, in their order."""
    room = dict.fromkeys(LEVELS, count // len(LEVELS))
    chosen = []
    for entry in entries:
        if room.get(entry.level, 0):
            room[entry.level] -= 1
            chosen.append(entry)
    return chosen


def _entry(name: str, number: int, key: str, content: Any) -> Entry:
    try:
        caption, segments = content["caption"], content["segment"]
        instances = tuple(_instance(name, segment["label"], segment["bbox"]) for segment in segments)
        image_id = str(content.get("image_id", ""))
    except (TypeError, KeyError, AttributeError) as error:
        raise AmdmError(
            f'{name} must have "caption" and "segment", a list of objects with "label" and "bbox"; correct it.'
        ) from error
    if not isinstance(caption, str) or not _can_be_kept(caption + image_id) or len(instances) not in LEVELS:
        raise AmdmError(f"{name} must have a text as caption and {LEVELS[0]} to {LEVELS[-1]} segments; correct it.")
    return Entry(number, key, caption.strip(), instances, image_id)


def _can_be_kept(text: str) -> bool:
    """Return False for half a character, which JSON can hold and a file of text cannot."""
    return text.encode("utf-8", "ignore").decode() == text


def _instance(name: str, label: Any, bbox: Any) -> Instance:
    if (
        not isinstance(label, str)
        or not _can_be_kept(label)
        or len(label.split()) < 3
        or label.split()[1] not in COLOURS
    ):
        raise AmdmError(
            f'{name} has the label {short(label)}, which must be like "a red cat", with one of the colours '
            f"{', '.join(COLOURS)}; correct it."
        )
    try:
        [region] = Layout.of_rows([{"phrase": label, "box": bbox}]).regions
    except LayoutError as error:
        raise AmdmError(f"{name} {error}.") from error
    return Instance(label, region.box)
