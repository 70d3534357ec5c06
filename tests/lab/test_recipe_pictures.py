"""The pictures beside the recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("amdm_lab.studio.k_diffusion_parts")

from amdm_lab.bundled import WEIGHTS
from amdm_lab.demo import recipes
from amdm_lab.demo.recipes import DRAWN, FORM, SHEETS, Sheet
from amdm_lab.studio.host import Standalone
from amdm_lab.world.scenes import SIZE
from lib_amdm.webui.recipes import RECIPES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_a_row_has_each_checkpoint_alone_and_then_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "STEPS", 2)
    host, three = Standalone(WEIGHTS), SHEETS[-1]
    drawn = np.asarray(recipes.drawn(host, three))
    mix = recipes.settings(three)
    assert mix.evaluations == RECIPES[three.recipe].settings.evaluations
    models = [(three.main, None), *((name, None) for name in three.co_models), (three.main, mix)]
    for row, (seed, scene) in enumerate(enumerate(DRAWN, 1)):
        cells = [np.asarray(recipes.draw(host, name, scene, seed, settings)) for name, settings in models]
        assert not np.array_equal(cells[0], cells[-1])
        for column, cell in enumerate(cells):
            x, y = FORM.margin + column * (SIZE + FORM.across), FORM.margin + FORM.line + row * (SIZE + FORM.down)
            assert np.array_equal(drawn[y : y + SIZE, x : x + SIZE], cell)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda sheet: sheet.file)
def test_they_are_small_and_beside_their_recipes(sheet: Sheet) -> None:
    page = (DOCS / "recipes.md").read_text(encoding="utf-8")
    beside = page.split(f"## {sheet.recipe + 1}. ")[1].split("\n## ")[0]
    assert f"]({sheet.file})" in beside
    assert (DOCS / sheet.file).stat().st_size < 150_000
