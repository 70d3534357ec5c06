"""AMDM on the bundled checkpoints, without a WebUI: one picture and a small table.

Each checkpoint was taught only a part of what a picture shows. The picture has a row for each of them alone, one for
AMDM, and one for a checkpoint that was taught everything: the ceiling. All rows start from the same seeds.
"""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from lib_amdm import command_line
from lib_amdm.errors import AmdmError
from lib_amdm.settings import Settings

from ..bundled import WEIGHTS
from ..shapes import scores
from ..shapes.judge import Judge
from ..shapes.methods import EVERYTHING, MAIN
from ..studio.host import Job, Standalone
from ..world.scenes import SIZE, Scene
from .example import CFG_SCALE, FIRST_SEED, MIX, SAMPLER, SCENES, STEPS, mix_for, prompt_for

FILE = "amdm-demo.png"
PAGE_PORT, MOST_PORT = 7861, 65535


@dataclass(frozen=True)
class Row:
    """One way of drawing every scene: by one checkpoint alone, or by several with AMDM."""

    title: str
    checkpoint: str
    mix: Settings | None = None


@dataclass(frozen=True)
class DrawnRow:
    """A row's pictures, (scenes, seeds, SIZE, SIZE, 3) as bytes, and the seconds they took."""

    row: Row
    pictures: np.ndarray
    seconds: float


def rows() -> list[Row]:
    names = [MAIN, *(slot.checkpoint for slot in MIX.co_models)]
    alone = [Row(f"{name} alone", name) for name in names]
    return [*alone, Row(f"AMDM: {' + '.join(names)}", MAIN, MIX), Row(f"{EVERYTHING}: the ceiling", EVERYTHING)]


def draw(host: Standalone, row: Row, seeds: Sequence[int], scenes: Sequence[Scene] = SCENES) -> DrawnRow:
    """Draw every scene with every seed."""
    began = time.monotonic()
    pictures = []
    for scene in scenes:
        job = Job(
            checkpoint=row.checkpoint,
            prompts=[prompt_for(row.checkpoint, scene)] * len(seeds),
            seeds=list(seeds),
            sampler=SAMPLER,
            steps=STEPS,
            cfg_scale=CFG_SCALE,
            width=SIZE,
            height=SIZE,
        )
        pictures.append(host.generate(job, row.mix and mix_for(scene, row.mix)).pictures)
    return DrawnRow(row, np.stack(pictures), time.monotonic() - began)


def shares(drawn: DrawnRow, judge: Judge, scenes: Sequence[Scene] = SCENES) -> dict[str, float]:
    """Return the share of the objects with the right shape, the right colour, and both."""
    wanted = [scene for scene, pictures in zip(scenes, drawn.pictures) for _ in pictures]
    seen = judge(torch.from_numpy(drawn.pictures).flatten(0, 1).permute(0, 3, 1, 2) / 127.5 - 1)
    found = scores.shares(wanted, seen)
    return {name: found[name].value for name in ("shape", "colour", "both")}


def table(all_drawn: Sequence[DrawnRow], judge: Judge) -> str:
    """Make a table of the judge's verdict on each row, and its seconds."""
    width = max(len(drawn.row.title) for drawn in all_drawn)
    lines = [f"{'objects with the right':{width}}   shape  colour    both  seconds"]
    for drawn in all_drawn:
        found = "".join(f"{share:8.0%}" for share in shares(drawn, judge).values())
        lines.append(f"{drawn.row.title:{width}}{found}{drawn.seconds:9.1f}")
    return "\n".join(lines)


MARGIN, GAP, LINE = 10, 4, 20
LABEL = 170
INK, PAPER = (20, 20, 20), (255, 255, 255)


def sheet(all_drawn: Sequence[DrawnRow], scenes: Sequence[Scene] = SCENES) -> Image.Image:
    """Draw one picture: a block of columns for each scene below its prompts, a row for each way."""
    font = ImageFont.load_default(size=15)
    seeds = all_drawn[0].pictures.shape[1]
    block = seeds * (SIZE + GAP) - GAP
    heads = [_wrapped(scene, block, font) for scene in scenes]
    top = MARGIN + LINE * max(len(head) for head in heads) + GAP
    size = (MARGIN + LABEL + len(scenes) * (block + MARGIN), top + len(all_drawn) * (SIZE + GAP) - GAP + MARGIN)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for column, head in enumerate(heads):
        for number, line in enumerate(head):
            pen.text((_left(column, block), MARGIN + number * LINE), line, INK, font)
    for row, drawn in enumerate(all_drawn):
        y = top + row * (SIZE + GAP)
        pen.multiline_text((MARGIN, y + SIZE // 2), textwrap.fill(drawn.row.title, 18), INK, font, anchor="lm")
        for column, pictures in enumerate(drawn.pictures):
            for number, picture in enumerate(pictures):
                page.paste(Image.fromarray(picture), (_left(column, block) + number * (SIZE + GAP), y))
    return page


def _left(column: int, block: int) -> int:
    return MARGIN + LABEL + column * (block + MARGIN)


def _wrapped(scene: Scene, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Break a scene's prompts for the checkpoints into lines of at most `width` pixels."""
    letters = max(12, int(width / font.getlength("n")))
    names = [MAIN, *(slot.checkpoint for slot in MIX.co_models)]
    return [line for name in names for line in textwrap.wrap(f"{name}: {prompt_for(name, scene)}", letters)]


def demo(file: Path, pictures: int, folder: Path = WEIGHTS, say: Callable[[str], None] = print) -> list[DrawnRow]:
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
    for row in rows():
        say(f"Drawing {pictures * len(SCENES)} pictures: {row.title}")
        all_drawn.append(draw(host, row, seeds))
    sheet(all_drawn).save(file, "PNG")
    say(f"\n{table(all_drawn, judge)}\n\n{file.resolve()}\nDone in {time.monotonic() - began:.0f} s.")
    return all_drawn


def main(arguments: list[str] | None = None) -> None:
    parser = command_line.parser(command_line.typed("amdm_lab demo"), __doc__)
    parser.add_argument("--out", type=Path, default=Path(FILE), help="the picture's file, a PNG")
    parser.add_argument("--pictures", type=int, default=3, help="pictures of each scene in each row")
    parser.add_argument("--serve", action="store_true", help="open a page on this machine instead")
    parser.add_argument("--port", type=int, default=PAGE_PORT, help="the page's port")
    chosen = parser.parse_args(arguments)
    try:
        if not 0 < chosen.port <= MOST_PORT:
            raise AmdmError(f"--port must be from 1 to {MOST_PORT}, not {chosen.port}.")
        if chosen.serve:
            from .page import serve

            serve(chosen.port)
        else:
            demo(chosen.out, chosen.pictures)
    except AmdmError as error:
        parser.exit(1, f"{error}\n")
