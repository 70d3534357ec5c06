"""The documentation's API and X/Y/Z examples, run as written but for the address."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amdm_lab.export import export
from amdm_lab.judges.scenes import Judge
from amdm_lab.world.scenes import Scene, Thing

from .webui_server import WebUI

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").glob("*.md"))
BLOCKS = [block for page in PAGES for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S)]
EXAMPLES = [code for code in BLOCKS if "requests" in code]
CELL = 128


@pytest.fixture(scope="module", params=["API alone", "page"])
def server(request: pytest.FixtureRequest, start_webui: Callable[..., WebUI]) -> WebUI:
    # an API without a page reads the plot's axes at another moment than one with a page
    return start_webui(page=request.param == "page")


@pytest.fixture(scope="module")
def with_bundled(takes_bundled: None, server: WebUI) -> WebUI:
    export(server.data)
    server.refresh_checkpoints()
    return server


def run(server: WebUI, code: str, folder: Path) -> None:
    """Run an example as a user runs it: a file, by a Python of its own."""
    address = "http://127.0.0.1:7860"
    assert address in code
    file = folder / "example.py"
    file.write_text(code.replace(address, server.url("")), encoding="utf-8")
    done = subprocess.run([sys.executable, file], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def example(word: str) -> str:
    (code,) = [code for code in EXAMPLES if word in code]
    return code


def test_every_example_is_run_here() -> None:
    assert sorted(EXAMPLES) == sorted([example("amdm.png"), example("grid.png")])


def test_api_example(with_bundled: WebUI, tmp_path: Path) -> None:
    run(with_bundled, example("amdm.png"), tmp_path)
    with_amdm = np.asarray(Image.open(tmp_path / "amdm.png"))
    told = Image.open(tmp_path / "amdm.png").info["parameters"]
    assert "AMDM 1 checkpoint: amdm-shapes/colours.safetensors" in told
    prompt = "a circle at the top left, a triangle at the bottom right"
    scene = Scene((Thing("circle", "blue"), None, None, Thing("triangle", "red")), "plain")
    drawn = with_bundled.txt2img(
        checkpoint="amdm-shapes_shapes", prompt=prompt, seed=1, steps=20, cfg_scale=5, width=128, height=128
    )
    (without,) = with_bundled.pixels(drawn)
    judge = Judge.load()
    seen = judge(torch.from_numpy(np.stack([with_amdm, without])).permute(0, 3, 1, 2) / 127.5 - 1)
    assert seen[0].cells == scene.cells != seen[1].cells


def test_plot_example_varies_gamma_across_and_steps_down(with_bundled: WebUI, tmp_path: Path) -> None:
    run(with_bundled, example("grid.png"), tmp_path)
    grid = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    cells = [[_cell(grid, row, column) for column in range(5)] for row in range(4)]
    for column in range(5):
        assert np.array_equal(cells[0][column], cells[0][0]), "K = 0 is the untouched picture whatever gamma is"
    for row in range(4):
        assert np.array_equal(cells[row][0], cells[0][0]), "gamma = 0 is the untouched picture whatever K is"
    mixed = [cells[row][column] for row in range(1, 4) for column in range(1, 5)]
    assert len({cell.tobytes() for cell in mixed}) == len(mixed), "every other cell is a picture of its own"


def _cell(grid: np.ndarray, row: int, column: int) -> np.ndarray:
    """The picture of a cell; the legend stands left of and above the cells."""
    top, left = grid.shape[0] - 4 * CELL, grid.shape[1] - 5 * CELL
    return grid[top + row * CELL :, left + column * CELL :][:CELL, :CELL]


def test_values_of_the_cells_stand_in_their_infotexts(server: WebUI) -> None:
    infos = server.call("/sdapi/v1/script-info")
    plot = next(info for info in infos if info["name"] == "x/y/z plot" and not info["is_img2img"])
    axis = plot["args"][0]["choices"].index("[AMDM] gamma")
    values = [axis, "0, 0.25, 0.75", [], 0, "", [], 0, "", []]
    look = {argument["label"]: argument["value"] for argument in plot["args"][len(values) :]}
    answer = server.txt2img(
        script_name="X/Y/Z plot",
        script_args=[*values, *{**look, "Include Sub Images": True}.values()],
        alwayson_scripts={"AMDM": {"args": [{"co_models": [{"checkpoint": "beta.safetensors"}]}]}},
    )
    texts = json.loads(answer["info"])["infotexts"][1:]
    assert ["AMDM" in text for text in texts] == [False, True, True]
    assert [re.findall(r"AMDM 1 gamma: ([\d.]+)", text) for text in texts] == [[], ["0.25"], ["0.75"]]
