"""The grids that show what the settings do to one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from amdm_lab.bundled import WEIGHTS
from amdm_lab.demo import grids
from amdm_lab.demo.grids import DEFAULTS, FORM, GRIDS, SettingsGrid
from amdm_lab.studio.host import Standalone
from amdm_lab.world.scenes import SIZE

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_each_cell_is_the_picture_that_its_two_values_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "STEPS", 2)
    host = Standalone(WEIGHTS)
    sheet = np.asarray(grids.sheet(host, SettingsGrid("", ("gamma", (0.5, 1)), ("steps", (1, 0)))))
    side = SIZE + FORM.across
    for row, steps in enumerate((1, 0)):
        for column, gamma in enumerate((0.5, 1)):
            settings = grids.with_value(grids.with_value(DEFAULTS, "steps", steps), "gamma", gamma)
            assert (settings.steps, settings.co_models[0].gamma) == (steps, gamma)
            x, y = FORM.margin + FORM.left + column * side, FORM.margin + FORM.line + row * side
            cell = sheet[y : y + SIZE, x : x + SIZE]
            assert np.array_equal(cell, np.asarray(grids.draw(host, settings)))


def test_they_are_in_the_page_that_explains_the_settings_and_small() -> None:
    page = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    assert all(f"]({grid.file})" in page for grid in GRIDS)
    assert {grid.columns[0] for grid in GRIDS} | {grid.rows[0] for grid in GRIDS} == {
        *("gamma", "steps", "evaluations", "eta")
    }
    assert sum((DOCS / grid.file).stat().st_size for grid in GRIDS) < 300_000
