"""Grids of what the settings do to one picture: `python -m amdm_lab grids`, two of them for docs/.

The bundled checkpoints draw one prompt from one seed, everything else at its default: over gamma and steps, and over
evaluations and eta.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from lib_amdm.errors import AmdmError
from lib_amdm.settings import CoModel, Settings, specs

from .. import sheets
from ..arguments import add_docs
from ..bundled import WEIGHTS
from ..shapes.rows import MAIN, words
from ..sheets import Form
from ..studio.host import Job, Standalone
from ..world.scenes import SIZE
from .example import CFG_SCALE, SAMPLER, SCENES, STEPS, mix_for

SCENE, SEED = SCENES[0], 5
DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint="colours"),))
OF_THE_SLOT = frozenset(spec.name for spec in specs(CoModel)) - {spec.name for spec in specs(Settings)}
FORM = Form(font=14, line=18, left=92, margin=8, centred=True)
COLOURS = 64
"""Of a file; more would only draw the noise of these small models more exactly."""


@dataclass(frozen=True)
class SettingsGrid:
    """A picture for each value of two settings. columns, rows: a setting's name with its values."""

    file: str
    columns: tuple[str, Sequence[Any]]
    rows: tuple[str, Sequence[Any]]


GRIDS = (
    SettingsGrid("gamma_steps.png", ("gamma", (0, 0.25, 0.5, 0.75, 1)), ("steps", (1, 3, 7, 12, 17, 20))),
    SettingsGrid("evaluations_eta.png", ("evaluations", (1, 2, 3, 4, 7, 0)), ("eta", (0, 0.2, 0.5, 1))),
)


def with_value(settings: Settings, name: str, value: Any) -> Settings:
    """Return the settings with another value for one of them, or for one of their co-model's."""
    if name not in OF_THE_SLOT:
        return replace(settings, **{name: value})
    return replace(settings, co_models=tuple(replace(slot, **{name: value}) for slot in settings.co_models))


def draw(host: Standalone, settings: Settings) -> Image.Image:
    """Draw the one picture."""
    prompt = words(MAIN, SCENE)
    job = Job(MAIN, [prompt], [SEED], "", SAMPLER, STEPS, CFG_SCALE, SIZE, SIZE)
    return Image.fromarray(host.generate(job, mix_for(SCENE, settings)).pictures[0])


def sheet(host: Standalone, grid: SettingsGrid) -> Image.Image:
    """Draw a grid with its values at the edges."""
    (across, columns), (down, rows) = grid.columns, grid.rows
    pictures = [
        [draw(host, with_value(with_value(DEFAULTS, across, value), down, other)) for value in columns]
        for other in rows
    ]
    return sheets.sheet(pictures, [[shown(across, v)] for v in columns], [shown(down, v) for v in rows], FORM)


def shown(name: str, value: Any) -> str:
    """Return a value with its setting's name, as it stands at a grid's edge."""
    return f"{name}: all" if name == "evaluations" and not value else f"{name} {value:g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_docs(parser)


def run(options: argparse.Namespace) -> None:
    host = Standalone(WEIGHTS)
    write(options.docs, {grid.file: partial(sheet, host, grid) for grid in GRIDS})


def write(folder: Path, sheets_of: Mapping[str, Callable[[], Image.Image]], colours: int = COLOURS) -> None:
    """Draw sheets and write them into a folder.

    sheets_of: functions that draw them, by the names of their files. colours: how many a file has.
    """
    if not folder.is_dir():
        raise AmdmError(f'--docs names "{folder}", which is not a folder; make it or choose another.')
    for file, draw_sheet in sheets_of.items():
        draw_sheet().quantize(colours).save(folder / file, optimize=True)
        print(folder / file)
