"""Grids of what the settings do to one picture: `python -m amdm_lab grids`, two of them for docs/.

The bundled checkpoints draw one prompt from one seed, everything else at its default: over gamma and steps, and over
evaluations and eta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lib_amdm import command_line
from lib_amdm.errors import AmdmError
from lib_amdm.settings import CoModel, Settings, specs

from ..bundled import WEIGHTS
from ..shapes.methods import MAIN
from ..studio.host import Job, Standalone
from ..world.scenes import SIZE
from .example import CFG_SCALE, SAMPLER, SCENES, STEPS, mix_for, prompt_for

SCENE, SEED = SCENES[0], 5
DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint="colours"),))
OF_THE_SLOT = frozenset(spec.name for spec in specs(CoModel)) - {spec.name for spec in specs(Settings)}
MARGIN, GAP, LINE = 8, 4, 18
LABEL = 92
INK, PAPER = (20, 20, 20), (255, 255, 255)
COLOURS = 64
"""Of a file; more would only draw the noise of these small models more exactly."""


@dataclass(frozen=True)
class Grid:
    """A picture for each value of two settings. columns, rows: a setting's name with its values."""

    file: str
    columns: tuple[str, Sequence[Any]]
    rows: tuple[str, Sequence[Any]]


GRIDS = (
    Grid("gamma_steps.png", ("gamma", (0, 0.25, 0.5, 0.75, 1)), ("steps", (1, 3, 7, 12, 17, 20))),
    Grid("evaluations_eta.png", ("evaluations", (1, 2, 3, 4, 7, 0)), ("eta", (0, 0.2, 0.5, 1))),
)


def with_value(settings: Settings, name: str, value: Any) -> Settings:
    """Return the settings with another value for one of them, or for one of their co-model's."""
    if name not in OF_THE_SLOT:
        return replace(settings, **{name: value})
    return replace(settings, co_models=tuple(replace(slot, **{name: value}) for slot in settings.co_models))


def draw(host: Standalone, settings: Settings) -> Image.Image:
    """Draw the one picture."""
    prompt = prompt_for(MAIN, SCENE)
    job = Job(MAIN, [prompt], [SEED], "", SAMPLER, STEPS, CFG_SCALE, SIZE, SIZE)
    return Image.fromarray(host.generate(job, mix_for(SCENE, settings)).pictures[0])


def sheet(host: Standalone, grid: Grid) -> Image.Image:
    """Draw a grid with its values at the edges."""
    (across, columns), (down, rows) = grid.columns, grid.rows
    font = ImageFont.load_default(size=14)
    top = MARGIN + LINE
    size = (MARGIN + LABEL + len(columns) * (SIZE + GAP), top + len(rows) * (SIZE + GAP) + MARGIN - GAP)
    page = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(page)
    for column, value in enumerate(columns):
        x = MARGIN + LABEL + column * (SIZE + GAP)
        pen.text((x + SIZE // 2, MARGIN), said(across, value), INK, font, anchor="ma")
        for row, other in enumerate(rows):
            settings = with_value(with_value(DEFAULTS, across, value), down, other)
            page.paste(draw(host, settings), (x, top + row * (SIZE + GAP)))
    for row, other in enumerate(rows):
        pen.text((MARGIN, top + row * (SIZE + GAP) + SIZE // 2), said(down, other), INK, font, anchor="lm")
    return page


def said(name: str, value: Any) -> str:
    """Return a value with its setting's name, as it stands at a grid's edge."""
    return f"{name}: all" if name == "evaluations" and not value else f"{name} {value:g}"


def main(arguments: list[str] | None = None) -> None:
    parser = command_line.parser(command_line.typed("amdm_lab grids"), __doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="the folder for them")
    folder = parser.parse_args(arguments).docs
    if not folder.is_dir():
        parser.exit(1, f'--docs names "{folder}", which is not a folder; make it or choose another.\n')
    host = Standalone(WEIGHTS)
    try:
        for grid in GRIDS:
            sheet(host, grid).quantize(COLOURS).save(folder / grid.file, optimize=True)
            print(folder / grid.file)
    except AmdmError as error:
        parser.exit(1, f"{error}\n")
