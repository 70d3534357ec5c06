"""AMDM on the bundled checkpoints, without a WebUI: one picture and a small table.

Each checkpoint was taught only a part of what a picture shows. The picture has a row for each of them alone, one for
AMDM, one for AMDM with a checkpoint of another latent space, and one for a checkpoint that was taught everything: the
ceiling. All rows start from the same seeds.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings

from .. import sheets
from ..bundled import WEIGHTS
from ..judges.scenes import Judge
from ..shapes import scores
from ..shapes.methods import WIDE
from ..shapes.rows import MAIN, words
from ..shapes.rules import EVERYTHING
from ..sheets import Form
from ..studio.host import Job, Standalone
from ..world.scenes import SIZE, Scene
from .example import ACROSS, CFG_SCALE, FIRST_SEED, MIX, SAMPLER, SCENES, STEPS, mix_for

FILE = "amdm-demo.png"
PAGE_PORT, MOST_PORT = 7861, 65535
FORM = Form(font=15, line=20, left=170, margin=10, across=10)
NAMES = [MAIN, *(slot.checkpoint for slot in MIX.co_models)]
"""The checkpoints that AMDM runs together."""


@dataclass(frozen=True)
class DemoWay:
    """One way of drawing every scene: by one checkpoint alone, or by several with AMDM."""

    title: str
    checkpoint: str
    mix: Settings | None = None


@dataclass(frozen=True)
class DrawnWay:
    """A way's pictures, (scenes, seeds, SIZE, SIZE, 3) as bytes, and the seconds they took."""

    way: DemoWay
    pictures: np.ndarray
    seconds: float


def ways() -> list[DemoWay]:
    """Return the rows of the picture."""
    alone = [DemoWay(f"{name} alone", name) for name in NAMES]
    together = [
        DemoWay(f"AMDM: {' + '.join(NAMES)}", MAIN, MIX),
        DemoWay(f"AMDM through pixels: {MAIN} + {WIDE}", MAIN, ACROSS),
    ]
    return [*alone, *together, DemoWay(f"{EVERYTHING}: the ceiling", EVERYTHING)]


def draw(host: Standalone, way: DemoWay, seeds: Sequence[int], scenes: Sequence[Scene] = SCENES) -> DrawnWay:
    """Draw every scene with every seed."""
    began = time.monotonic()
    pictures = []
    for scene in scenes:
        job = Job(
            checkpoint=way.checkpoint,
            prompts=[words(way.checkpoint, scene)] * len(seeds),
            seeds=list(seeds),
            sampler=SAMPLER,
            steps=STEPS,
            cfg_scale=CFG_SCALE,
            width=SIZE,
            height=SIZE,
        )
        pictures.append(host.generate(job, way.mix and mix_for(scene, way.mix)).pictures)
    return DrawnWay(way, np.stack(pictures), time.monotonic() - began)


def shares(drawn: DrawnWay, judge: Judge, scenes: Sequence[Scene] = SCENES) -> dict[str, float]:
    """Return the share of the objects with the right shape, the right colour, and both."""
    wanted = [scene for scene, pictures in zip(scenes, drawn.pictures) for _ in pictures]
    seen = judge(torch.from_numpy(drawn.pictures).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1)
    of_all = scores.shares(wanted, seen)
    return {name: of_all[name].value for name in ("shape", "colour", "both")}


def table(all_drawn: Sequence[DrawnWay], judge: Judge) -> str:
    """Make a table of the judge's verdict on each row, and its seconds."""
    width = max(len(drawn.way.title) for drawn in all_drawn)
    lines = [f"{'objects with the right':{width}}   shape  colour    both  seconds"]
    for drawn in all_drawn:
        cells = "".join(f"{share:8.0%}" for share in shares(drawn, judge).values())
        lines.append(f"{drawn.way.title:{width}}{cells}{drawn.seconds:9.1f}")
    return "\n".join(lines)


def sheet(all_drawn: Sequence[DrawnWay], scenes: Sequence[Scene] = SCENES) -> Image.Image:
    """Draw one picture: a block of columns for each scene below its prompts, a row for each way."""
    rows = [
        [sheets.strip([Image.fromarray(picture) for picture in of_scene]) for of_scene in drawn.pictures]
        for drawn in all_drawn
    ]
    heads = [_prompts(scene, rows[0][0].width) for scene in scenes]
    return sheets.sheet(rows, heads, [textwrap.fill(drawn.way.title, 18) for drawn in all_drawn], FORM)


def _prompts(scene: Scene, width: int) -> list[str]:
    """Return a scene's prompts for the checkpoints in lines of at most `width` pixels."""
    letters = max(12, int(width / sheets.text_width("n", FORM)))
    return [line for name in NAMES for line in textwrap.wrap(f"{name}: {words(name, scene)}", letters)]


def demo(file: Path, pictures: int, folder: Path = WEIGHTS, say: Callable[[str], None] = print) -> list[DrawnWay]:
    """Draw `pictures` pictures of each scene in each way; write the sheet to `file` as PNG and print a table."""
    began = time.monotonic()
    if pictures < 1:
        raise AmdmError(f"--pictures must be 1 or more, not {pictures}.")
    if file.suffix.lower() != ".png" or file.is_dir():
        raise AmdmError(f'--out names "{file.name}", but the picture is a PNG; name a file that ends in .png.')
    if not file.parent.is_dir():
        raise AmdmError(f'--out names a file in "{file.parent}", which is not a folder; make it or choose another.')
    judge, host = Judge.load(), Standalone(folder)
    seeds = range(FIRST_SEED, FIRST_SEED + pictures)
    all_drawn = []
    for way in ways():
        say(f"Drawing {pictures * len(SCENES)} pictures: {way.title}")
        all_drawn.append(draw(host, way, seeds))
    sheet(all_drawn).save(file, "PNG")
    say(f"\n{table(all_drawn, judge)}\n\n{file.resolve()}\nDone in {time.monotonic() - began:.0f} s.")
    return all_drawn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path(FILE), help="the picture's file, a PNG")
    parser.add_argument("--pictures", type=int, default=3, help="pictures of each scene in each row")
    parser.add_argument("--serve", action="store_true", help="open a page on this machine instead")
    parser.add_argument("--port", type=int, default=PAGE_PORT, help="the page's port")


def run(options: argparse.Namespace) -> None:
    if not 0 < options.port <= MOST_PORT:
        raise AmdmError(f"--port must be from 1 to {MOST_PORT}, not {options.port}.")
    if options.serve:
        from .page import serve

        serve(options.port)
    else:
        demo(options.out, options.pictures)
