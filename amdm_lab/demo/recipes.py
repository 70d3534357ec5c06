"""The recipes that the bundled checkpoints can draw, as pictures for docs/: `python -m amdm_lab recipes`.

Each sheet has the pictures of every checkpoint alone, and those of the recipe, of the same scenes and seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from PIL import Image

from lib_amdm.settings import Settings
from lib_amdm.webui.recipes import RECIPES

from .. import sheets
from ..arguments import add_docs
from ..bundled import WEIGHTS
from ..shapes.rows import words
from ..sheets import Form
from ..studio.host import Job, Standalone
from ..world.scenes import SIZE, Scene
from .example import CFG_SCALE, FIRST_SEED, SAMPLER, SCENES, STEPS, mix_for
from .grids import write

DRAWN = SCENES[:2]
COLOURS = 256
"""Of a file; with fewer, parts of a thing get a colour that it has not."""
FORM = Form(font=14, line=18, left=0, margin=8, centred=True)


class Sheet(NamedTuple):
    """A recipe's pictures: its number in `RECIPES`, the main checkpoint and the co-models."""

    file: str
    recipe: int
    main: str
    co_models: tuple[str, ...]


SHEETS = (
    Sheet("recipe_refiner.png", 5, "shapes", ("colours",)),
    Sheet("recipe_regions.png", 6, "shapes", ("colours",)),
    Sheet("recipe_three.png", 7, "shapes", ("colours", "backgrounds")),
)


def settings(sheet: Sheet) -> Settings:
    """Return the recipe's settings with the sheet's checkpoints; there is no hires fix here."""
    of_recipe = RECIPES[sheet.recipe].settings
    slots = zip(of_recipe.co_models, sheet.co_models, strict=True)
    co_models = tuple(replace(slot, checkpoint=name) for slot, name in slots)
    return replace(of_recipe, which_pass="first", co_models=co_models)


def draw(host: Standalone, checkpoint: str, scene: Scene, seed: int, mix: Settings | None = None) -> Image.Image:
    """Draw a scene, each model with its words for it."""
    job = Job(checkpoint, [words(checkpoint, scene)], [seed], "", SAMPLER, STEPS, CFG_SCALE, SIZE, SIZE)
    return Image.fromarray(host.generate(job, mix and mix_for(scene, mix)).pictures[0])


def drawn(host: Standalone, sheet: Sheet) -> Image.Image:
    """Draw a sheet, a row for each scene."""
    names = (sheet.main, *sheet.co_models)
    rows = [
        [*(draw(host, name, scene, seed) for name in names), draw(host, sheet.main, scene, seed, settings(sheet))]
        for seed, scene in enumerate(DRAWN, FIRST_SEED)
    ]
    return sheets.sheet(rows, [[head] for head in (*names, "the recipe")], [""] * len(rows), FORM)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_docs(parser)


def run(options: argparse.Namespace) -> None:
    host = Standalone(WEIGHTS)
    write(options.docs, {sheet.file: partial(drawn, host, sheet) for sheet in SHEETS}, COLOURS)
