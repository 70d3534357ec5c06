"""`python -m amdm_lab pair` on a real WebUI: the pictures are the WebUI's own, and a stopped run goes on."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from amdm_lab.cli import main
from amdm_lab.pair.ways import PICTURES
from amdm_lab.runs import WARMING_STEPS

from .probed import slot
from .webui_server import WebUI

PROMPT, OTHER = "a red square", "a blue circle"
STEPS = 6
DRAWING = ("--steps", str(STEPS), "--cfg-scale", "3", "--width", "64", "--height", "64", "--sampler", "Euler")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def page(webui: WebUI, out: Path) -> str:
    """The page of a pair with one setting that is tried, and a refiner."""
    prompts = out / "prompts.txt"
    prompts.write_text(f"{PROMPT}\t{OTHER}\n", encoding="utf-8")
    assert run(webui, out, "--main", "alpha", "--co", "beta", "--prompts", str(prompts), *DRAWING) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def run(webui: WebUI, out: Path, *told: str) -> int:
    tried = ("--try", "gamma=0.7, evaluations=2", "--refiner", "0.5")
    return main(["pair", "--url", webui.url(""), "--out", str(out), *tried, *told])


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in (out / PICTURES).glob("*.json")]


def drawn(page: str, out: Path, caption: str) -> np.ndarray:
    """The picture of the card with this caption."""
    (source,) = re.findall(rf'<img src="([^"]+)"[^>]* alt="{caption}: {PROMPT}"', page)
    return np.asarray(Image.open(out / source).convert("RGB"))


def test_each_way_is_what_the_webui_draws_with_it(webui: WebUI, page: str, out: Path) -> None:
    co = {"enabled": True, "co_models": [slot("beta", prompt=OTHER)]}
    more = {**co, "evaluations": 2, "co_models": [slot("beta", prompt=OTHER, gamma=0.7)]}
    refiner = {"refiner_checkpoint": "beta.safetensors", "refiner_switch_at": 0.5}
    asked: dict[str, dict[str, Any]] = {
        "alpha alone": {},
        "beta alone": {"checkpoint": "beta", "prompt": OTHER},
        "AMDM, defaults": {"alwayson_scripts": {"AMDM": {"args": [co]}}},
        "AMDM, gamma 0.7, E 2": {"alwayson_scripts": {"AMDM": {"args": [more]}}},
        "refiner: beta from 0.5 of the steps on": refiner,
    }
    pictures = {}
    for caption, told in asked.items():
        given = {"checkpoint": "alpha", "prompt": PROMPT, "steps": STEPS, "seed": 1, **told}
        # as the command does: Forge Neo gives the refiner other texts in the first picture of a row that it refines
        webui.txt2img(**{**given, "steps": WARMING_STEPS})
        (pictures[caption],) = webui.pixels(webui.txt2img(**given))
        assert np.array_equal(drawn(page, out, caption), pictures[caption]), caption
    assert len({picture.tobytes() for picture in pictures.values()}) == len(asked), "the ways do not differ"


def test_evaluations_times_and_memory_are_the_webuis_own(page: str, out: Path) -> None:
    told = {json.dumps(record["order"]["settings"]): record for record in records(out)}
    assert len(told) == 3, "without AMDM, with it, with a changed setting"
    counts = sorted(sum(record["evaluations"].values()) for record in records(out))
    assert counts == [0, 0, 0, 2, 4]
    assert all(record["seconds"] > 0 and record["memory"]["total"] > 0 for record in records(out))
    with_amdm = [record for record in records(out) if record["evaluations"]]
    assert all(record["memory"]["co_models"] > 0 for record in with_amdm)
    assert "<td>main + 4</td>" in page and "the WebUI's whole process" in html.unescape(page)


def test_what_is_drawn_is_not_drawn_again(webui: WebUI, page: str, out: Path, capsys: pytest.CaptureFixture) -> None:
    before = {file: file.stat().st_mtime_ns for file in (out / PICTURES).glob("*.png")}
    lost = next(iter(before))
    lost.with_suffix(".json").unlink()
    told = ("--main", "alpha", "--co", "beta", "--prompts", str(out / "prompts.txt"))
    assert run(webui, out, *told, *DRAWING) == 0
    assert "4 of 5 are done already" in capsys.readouterr().out
    after = {file: file.stat().st_mtime_ns for file in (out / PICTURES).glob("*.png")}
    assert {file for file in after if after[file] != before.get(file)} == {lost}


def test_a_compared_picture_is_a_pair(webui: WebUI, tmp_path: Path) -> None:
    """Its grid too: models, prompts, seed and settings are read out of it by the WebUI."""
    told = {"enabled": True, "compare": True, "steps": 3, "co_models": [slot("beta", prompt=OTHER, gamma=0.4)]}
    given = {"prompt": PROMPT, "steps": STEPS, "seed": 5, "alwayson_scripts": {"AMDM": {"args": [told]}}}
    answer = webui.txt2img(checkpoint="alpha", **given)
    together, grid, *_ = answer["images"]
    for name, picture in (("together", together), ("grid", grid)):
        file = tmp_path / f"{name}.png"
        file.write_bytes(base64.b64decode(picture))
        assert run(webui, tmp_path, "--from", str(file)) == 0
        page = (tmp_path / "index.html").read_text(encoding="utf-8")
        as_it_was = drawn(page, tmp_path, "AMDM, as it was drawn")
        assert np.array_equal(as_it_was, webui.pixels(answer)[0]), name
    assert len(list((tmp_path / PICTURES).glob("*.json"))) == 5, "the grid's pair is the picture's"


def test_a_picture_without_amdm_is_none(webui: WebUI, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "plain.png"
    file.write_bytes(base64.b64decode(webui.txt2img(checkpoint="alpha", prompt=PROMPT)["images"][0]))
    assert run(webui, tmp_path, "--from", str(file)) == 1
    assert '"plain.png" was drawn with 0 co-models of AMDM' in capsys.readouterr().err


def test_an_unknown_checkpoint_is_named(webui: WebUI, page: str, out: Path, capsys: pytest.CaptureFixture) -> None:
    told = ("--main", "alpha", "--co", "nobody", "--prompts", str(out / "prompts.txt"))
    assert run(webui, out, *told) == 1
    assert '"nobody" is not in the list of checkpoints' in capsys.readouterr().err
