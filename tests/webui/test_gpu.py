"""`python -m amdm_lab gpu` through a real WebUI's API: its own checkpoints, and some of random weights."""

from __future__ import annotations

import re

import pytest

from amdm_lab.cli import main
from amdm_lab.gpu.loop import EVALUATIONS

from .webui_server import WebUI

ANYWHERE = ("--device", "cpu", "--size", "tiny", "--parts", "webui", "--pixels", "64")


def rows(output: str) -> list[list[str]]:
    """The cells of the table's rows."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines()[4:]]


def test_the_webuis_own_checkpoints_have_a_row_for_each_number(webui: WebUI, capsys: pytest.CaptureFixture) -> None:
    told = ["--url", webui.url(""), "--main", "alpha", "--co", "beta", "--co", "gamma"]
    assert main(["gpu", *ANYWHERE, *told]) == 0
    found = rows(capsys.readouterr().out)
    evaluations = ["main", f"main + {EVALUATIONS}", f"main + {EVALUATIONS} + {EVALUATIONS}"]
    assert [row[3] for row in found] == evaluations
    assert all("the same co-models loaded" in row[9] for row in found[1:])
    assert re.search(r"unloading: 2 co-models of [1-9]\d* MB", found[-1][10])
    assert webui.call("/amdm/v1/models")["loaded"] == []


def test_random_checkpoints_are_written_into_its_folder(
    takes_bundled: None, webui: WebUI, capsys: pytest.CaptureFixture
) -> None:
    folder = webui.data / "models" / "Stable-diffusion" / "amdm-gpu"
    told = ["--url", webui.url(""), "--folder", str(folder), "--co-models", "1"]
    try:
        assert main(["gpu", *ANYWHERE, *told]) == 0
    finally:
        for file in folder.glob("*.*"):
            file.unlink()
        webui.refresh_checkpoints()
    alone, both = rows(capsys.readouterr().out)
    assert "amdm-random-tiny-0" in alone[1] and both[3] == f"main + {EVALUATIONS}"
    assert not webui.errors()
