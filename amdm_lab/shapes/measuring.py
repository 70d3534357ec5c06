"""Draw the same scenes with any method, have them judged, and keep the verdicts, so that a long run can go on."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib_amdm.command_line import put

from ..bundled import ADAPTERS, JUDGE
from ..judges.scenes import Judge
from ..runs import complete
from ..statistics import Estimate
from ..studio.host import Standalone
from ..world.data import drawn_scenes
from ..world.scenes import Scene, Thing
from .rows import Method, Studio
from .scores import shares

SEEDS_APART = 1_000_000
"""No picture's seed is used with two seeds of the benchmark."""


@dataclass(frozen=True)
class Measured:
    """The judge's verdicts on a method's pictures, and the evaluations that one picture took."""

    scenes: Sequence[Scene]
    verdicts: Sequence[Scene]
    evaluations: int
    co_evaluations: int

    @property
    def shares(self) -> dict[str, Estimate]:
        return shares(self.scenes, self.verdicts)

    @property
    def taken(self) -> str:
        """The evaluations as the tables have them."""
        return f"{self.evaluations} + {self.co_evaluations}"


@dataclass(frozen=True)
class Bench:
    """Scenes and seeds that are the same for every method."""

    studio: Studio
    judge: Judge
    pictures: int
    seed: int = 1
    batch: int = 50
    folder: Path | None = None
    """For the verdicts; None: they are not kept."""
    judge_file: Path = JUDGE

    @classmethod
    def of(cls, weights: Path | Sequence[Path], judge: Judge | None = None, **further: Any) -> Bench:
        """Make a benchmark of the checkpoints in one or more folders; `further`: fields of this class or of Studio."""
        fields = {name: further.pop(name) for name in ("seed", "batch", "folder", "judge_file") if name in further}
        pictures = further.pop("pictures")
        host = Standalone(weights, adapter_folders=[ADAPTERS])
        return cls(Studio(host, **further), judge or Judge.load(), pictures, **fields)

    def scenes(self) -> list[Scene]:
        return drawn_scenes(self.pictures, np.random.default_rng(self.seed))

    def seeds(self) -> list[int]:
        return [self.seed * SEEDS_APART + number for number in range(self.pictures)]

    def run(self, name: str, method: Method) -> Measured:
        """Draw and judge what is not kept yet."""
        scenes, seeds = self.scenes(), self.seeds()
        conditions = {**self.conditions(), "method": [method.label, method.detail]}
        if method.more:
            conditions["more"] = digest(method.more)
        file = self.folder / f"{name}.json" if self.folder else None
        content = _read_kept(file, conditions)
        verdicts = [scene_of(row) for row in content["seen"]]

        def make(numbers: Sequence[int]) -> list[Scene]:
            part = slice(numbers[0], numbers[-1] + 1)
            drawn = method.draw(self.studio, scenes[part], seeds[part])
            made = self.judge(self.studio.pictures(drawn))
            content["evaluations"], content["co_evaluations"] = drawn.evaluations, drawn.co_evaluations
            content["seen"] += [row_of(scene) for scene in made]
            _keep(file, content)
            return made

        numbers = range(self.pictures)
        by_number = complete(
            numbers, lambda n: verdicts[n] if n < len(verdicts) else None, make, self.batch, name=lambda _: name
        )
        return Measured(scenes, list(by_number.values()), content["evaluations"], content["co_evaluations"])

    def seconds(self, methods: Sequence[Method], pictures: int = 16, rounds: int = 2) -> list[float]:
        """Return the seconds a picture takes in each method, decoding included.

        The methods take turns, and the fastest turn counts.
        """
        few = replace(self, pictures=pictures)
        scenes, seeds = few.scenes(), few.seeds()
        turns = [[_clock(self.studio, method, scenes, seeds) for method in methods] for _ in range(rounds)]
        return [min(of_method) / pictures for of_method in zip(*turns)]

    def conditions(self) -> dict[str, Any]:
        """Return everything that must agree for kept results to count."""
        studio = self.studio
        return {
            "seed": self.seed,
            "steps": studio.steps,
            "cfg_scale": studio.cfg_scale,
            "sampler": studio.sampler,
            "scale": studio.scale,
            "weights": " ".join(digest(folder) for folder in studio.host.folders),
            "judge": digest(self.judge_file.parent),
        }


def _read_kept(file: Path | None, conditions: dict[str, Any]) -> dict[str, Any]:
    """Return what a file keeps, if it was measured under the same conditions, and otherwise an empty start."""
    if file and file.is_file():
        content: dict[str, Any] = json.loads(file.read_text())
        if content["conditions"] == conditions:
            return content
    return {"conditions": conditions, "evaluations": 0, "co_evaluations": 0, "seen": []}


def _keep(file: Path | None, content: dict[str, Any]) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".new")
        unfinished.write_text(json.dumps(content))
        put(unfinished, file)


def _clock(studio: Studio, method: Method, scenes: Sequence[Scene], seeds: Sequence[int]) -> float:
    began = time.perf_counter()
    studio.pictures(method.draw(studio, scenes, seeds))
    return time.perf_counter() - began


def digest(folder: Path) -> str:
    """Return a short hash of the weights in a folder."""
    whole = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        whole.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def machine() -> str:
    """Describe the machine that the seconds were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32"


def row_of(scene: Scene) -> list[str]:
    """Write a scene: "red circle", "pierced red circle" or nothing for each cell, then the background."""
    return [*(_words(thing) if thing else "" for thing in scene.cells), scene.background]


def _words(thing: Thing) -> str:
    plain = f"{thing.colour} {thing.shape}"
    return plain if thing.style == "filled" else f"{thing.style} {plain}"


def scene_of(row: Sequence[str]) -> Scene:
    *cells, background = row
    things = [Thing(*reversed(cell.split())) if cell else None for cell in cells]
    return Scene(tuple(things), background)
