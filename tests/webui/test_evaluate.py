"""The commands of evidence on a real WebUI, by its API: `python -m amdm_lab`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import random_adapters as adapter_files
from PIL import Image

from amdm_lab.bundled import LAYOUT_ADAPTER
from amdm_lab.coco_mig import benchmark
from amdm_lab.coco_mig.benchmark import Entry, Instance, prompt_of
from amdm_lab.coco_mig.recipes import BUILT_IN
from amdm_lab.drawers.webui_api import WebUIDrawer
from amdm_lab.drawing import Order
from amdm_lab.export import export
from lib_amdm import __version__
from lib_amdm.comodels.file_list import without_hash
from lib_amdm.errors import AmdmError

from .webui_server import WebUI

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 6
SMALL: dict[str, Any] = {"steps": STEPS, "width": 64, "height": 64, "cfg_scale": 3}


@pytest.fixture(scope="module")
def server(webui: WebUI) -> Iterator[WebUI]:
    """The shared server, with an adapter file of each kind."""
    if "adapters" in webui.host.lacks:
        pytest.skip(webui.host.lacks["adapters"])
    shape = adapter_files.Shape.of(webui.checkpoint_folder / "alpha.safetensors")
    folder = webui.data / "models" / "amdm"
    adapter_files.write(folder, shape)
    _read_the_list_again(webui)
    yield webui
    webui.call("/amdm/v1/unload", {})
    shutil.rmtree(folder)
    _read_the_list_again(webui)


def _read_the_list_again(server: WebUI) -> None:
    """A name that is not in the list has the folders looked through again."""
    lost = {"enabled": True, "main_adapter": {"adapter": "lost.safetensors", "layout": "a cat: 0 0 1 1"}}
    answer = server.post("/sdapi/v1/txt2img", server.request(None, {**SMALL, "alwayson_scripts": script(lost)}))
    assert answer.status_code == 500 and "lost.safetensors" in answer.text


def script(settings: dict[str, Any] | None) -> dict[str, Any]:
    return {"AMDM": {"args": [settings or {"enabled": False}]}}


@pytest.fixture(scope="module")
def drawer(server: WebUI) -> WebUIDrawer:
    return WebUIDrawer(server.url(""))


def test_the_drawer_tells_what_the_webui_has(server: WebUI, drawer: WebUIDrawer) -> None:
    told = drawer.description()
    assert server.host.name in told.lower() and told.endswith(f" (AMDM {__version__})")
    assert "alpha.safetensors" in map(without_hash, drawer.checkpoints())
    assert {adapter_files.INTERACT, adapter_files.MIGC} <= set(drawer.adapters())
    assert drawer.figure("ram", "used")


def test_the_drawer_draws_what_the_api_draws(server: WebUI, drawer: WebUIDrawer) -> None:
    settings = {"enabled": True, "steps": 3, "evaluations": 0, "co_models": [{"checkpoint": "beta"}]}
    for told in (None, settings):
        drawn = drawer.draw(Order("alpha.safetensors", "a red square", 5, settings=told, **SMALL))
        asked = {**SMALL, "prompt": "a red square", "seed": 5, "alwayson_scripts": script(told)}
        same = server.txt2img(checkpoint="alpha", sampler_name="Euler", scheduler="Automatic", **asked)
        assert np.array_equal(np.asarray(drawn.picture), server.pixels(same)[0])
        assert drawn.seconds > 0 and drawn.evaluations == ({"beta": 3} if told else {})


def test_the_drawer_tells_an_error_in_amdms_words(drawer: WebUIDrawer) -> None:
    settings = {"enabled": True, "co_models": [{"checkpoint": "lost"}]}
    with pytest.raises(
        AmdmError, match=r'answered 500: AMDM co-model 1: "lost" is not in .*list of checkpoints; refresh the list'
    ):
        drawer.draw(Order("alpha.safetensors", "a red square", 5, settings=settings, **SMALL))


# --- coco-mig ---


def bench(file: Path, entries: int) -> Path:
    left, right = Instance("a red circle", (0.1, 0.1, 0.4, 0.4)), Instance("a blue square", (0.6, 0.5, 0.9, 0.9))
    made = [Entry(0, "0", prompt_of([left.label, right.label]), (left, right))]
    made.append(Entry(1, "1", prompt_of([left.label] * 3), (left, right, left)))
    benchmark.write(made[:entries], file)
    return file


def command(out: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the command as a user does."""
    asked = [sys.executable, "-m", "amdm_lab", "coco-mig", f"--out={out}", *arguments]
    return subprocess.Popen(
        asked,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a shell's background job ignores the keyboard's interrupt, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    told, _ = process.communicate(timeout=600)
    assert process.returncode == code, told
    return told


def interrupted_once(out: Path, arguments: list[str], pictures: int) -> list[Path]:
    """Interrupt the command as from the keyboard after its first picture, let it go on, and return all pictures."""
    process = command(out, *arguments)
    while not list(out.glob("*/*.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert "the same command goes on" in ended(process, 130)
    before = {file: file.read_bytes() for file in [*out.glob("*/*.png"), *out.glob("*/*.json")]}
    assert 1 <= len(list(out.glob("*/*.json"))) < pictures
    told = ended(command(out, *arguments))
    assert f"{pictures} pictures of {pictures}" in told
    kept = {file for file in before if file.with_suffix(".json").is_file() and file.with_suffix(".json") in before}
    assert kept and all(file.read_bytes() == before[file] for file in kept)
    return sorted(out.glob("*/*.png"))


def test_every_method_draws_interrupted_and_gone_on_with(server: WebUI, tmp_path: Path) -> None:
    since = len(server.log)
    told = [f"--url={server.url('')}", f"--bench={bench(tmp_path / 'bench.json', 1)}", "--checkpoint=alpha"]
    told += [f"--steps={STEPS}", "--size=64", "--cfg-scale=3"]
    drawn = interrupted_once(tmp_path / "out", told, len(BUILT_IN))
    assert {file.parent.name for file in drawn} == set(BUILT_IN)
    ended(command(tmp_path / "whole", *told))
    for file in drawn:
        # the pixels alone: the infotext has times
        with Image.open(file) as one, Image.open(tmp_path / "whole" / file.relative_to(tmp_path / "out")) as other:
            assert np.array_equal(np.asarray(one), np.asarray(other)), file
    assert len({Image.open(file).tobytes() for file in drawn}) == len(BUILT_IN)
    for name, count in (("paper", 3), ("released", 4)):
        record = json.loads((tmp_path / "out" / name / "0.json").read_text())
        assert list(record["evaluations"].values()) == [count] and "AMDM main adapter" in record["infotext"]
    assert not server.errors(since)


def test_the_bundled_layout_adapter_draws_with_a_file_of_settings(
    takes_bundled: None, start_webui: Callable[..., WebUI], tmp_path: Path
) -> None:
    """Trained adapter and checkpoint: where the boxes are elsewhere, the picture is another."""
    server = start_webui()
    export(server.data)
    server.refresh_checkpoints()
    (server.data / "models" / "amdm").mkdir(exist_ok=True)
    shutil.copy(LAYOUT_ADAPTER, server.data / "models" / "amdm")
    settings = tmp_path / "layout.json"
    settings.write_text(json.dumps({"enabled": True, "main_adapter": {"adapter": LAYOUT_ADAPTER.name}}))
    told = [f"--url={server.url('')}", f"--bench={bench(tmp_path / 'bench.json', 2)}", f"--settings={settings}"]
    told += ["--checkpoint=amdm-shapes/shapes.safetensors", "--steps=10", "--size=128", "--cfg-scale=5", "--seed=3"]
    one, other = interrupted_once(tmp_path / "out", told, 2)
    assert Image.open(one).tobytes() != Image.open(other).tobytes()
    assert not server.errors()
