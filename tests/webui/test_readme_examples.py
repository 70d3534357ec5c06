"""The README's API and X/Y/Z examples, run as written but for the address, the size and the checkpoint's name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .webui_server import WebUI

README = Path(__file__).resolve().parents[2] / "README.md"
EXAMPLES = [code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "requests" in code]
AS_HERE = {
    '"steps": 20,': '"steps": 16, "width": 64, "height": 64, "cfg_scale": 3,',
    "colours.safetensors": "beta.safetensors",
}


@pytest.fixture(scope="module", params=["API alone", "page"])
def server(request: pytest.FixtureRequest, start_webui: Callable[..., WebUI]) -> WebUI:
    # an API without a page reads the plot's axes at another moment than one with a page
    return start_webui(page=request.param == "page", options={"return_grid": True})


def run(server: WebUI, code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for old, new in {"http://127.0.0.1:7860": server.url(""), **AS_HERE}.items():
        assert old in code
        code = code.replace(old, new)
    exec(compile(code, "README.md", "exec"), {})


def example(word: str) -> str:
    (code,) = [code for code in EXAMPLES if word in code]
    return code


def test_every_example_is_run_here() -> None:
    assert sorted(EXAMPLES) == sorted([example("amdm.png"), example("grid.png")])


def test_api_example(server: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(server, example("amdm.png"), tmp_path, monkeypatch)
    with_amdm = np.asarray(Image.open(tmp_path / "amdm.png"))
    told = Image.open(tmp_path / "amdm.png").info["parameters"]
    assert "AMDM 1 checkpoint: beta.safetensors" in told
    (without,) = server.pixels(server.txt2img(prompt="a triangle", seed=1, steps=16, sampler_name="DPM++ 2M"))
    assert with_amdm.shape == without.shape
    assert not np.array_equal(with_amdm, without)


def test_plot_example_varies_gamma_across_and_steps_down(
    server: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(server, example("grid.png"), tmp_path, monkeypatch)
    grid = np.asarray(Image.open(tmp_path / "grid.png")).astype(int)
    cells = [[_cell(grid, row, column) for column in range(5)] for row in range(4)]
    for column in range(5):
        assert np.array_equal(cells[0][column], cells[0][0]), "K = 0 is the untouched picture whatever gamma is"
    for row in range(4):
        assert np.array_equal(cells[row][0], cells[0][0]), "gamma = 0 is the untouched picture whatever K is"
    mixed = [cells[row][column] for row in range(1, 4) for column in range(1, 5)]
    assert len({cell.tobytes() for cell in mixed}) == len(mixed), "every other cell is a picture of its own"


def _cell(grid: np.ndarray, row: int, column: int) -> np.ndarray:
    """The 64x64 picture of a cell; the legend stands left of and above the cells."""
    top, left = grid.shape[0] - 4 * 64, grid.shape[1] - 5 * 64
    return grid[top + row * 64 :, left + column * 64 :][:64, :64]


def test_values_of_the_cells_stand_in_their_infotexts(server: WebUI) -> None:
    infos = server.call("/sdapi/v1/script-info")
    plot = next(info for info in infos if info["name"] == "x/y/z plot" and not info["is_img2img"])
    axis = plot["args"][0]["choices"].index("[AMDM] gamma")
    values = [axis, "0, 0.25, 0.75", [], 0, "", [], 0, "", []]
    answer = server.txt2img(
        script_name="X/Y/Z plot",
        script_args=[*values, False, True, False, False, False, False, False, 0, False],
        alwayson_scripts={"AMDM": {"args": [{"co_models": [{"checkpoint": "beta.safetensors"}]}]}},
    )
    texts = json.loads(answer["info"])["infotexts"][1:]
    assert ["AMDM" in text for text in texts] == [False, True, True]
    assert [re.findall(r"AMDM 1 gamma: ([\d.]+)", text) for text in texts] == [[], ["0.25"], ["0.75"]]
