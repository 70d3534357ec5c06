"""COCO-MIG drawn without a WebUI: every method with adapters of random weights, and the bundled layout adapter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import random_adapters as adapter_files
from PIL import Image

from lib_amdm.evaluate.coco_mig import benchmark, command
from lib_amdm.evaluate.coco_mig.benchmark import Entry, Instance, prompt_of
from lib_amdm.evaluate.coco_mig.methods import BUILT_IN
from lib_amdm.shapes.bundled import LAYOUT_ADAPTER, WEIGHTS

STEPS = 6
CO_EVALUATIONS = {"interact": 0, "migc": 0, "paper": 3, "released": 4}
"""Of the co-model on the main checkpoint, in 6 steps; by defaults it is the plan's own number."""


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    adapter_files.write(folder, adapter_files.Shape.of(WEIGHTS / "shapes.safetensors"))
    (folder / LAYOUT_ADAPTER.name).write_bytes(LAYOUT_ADAPTER.read_bytes())
    return folder


def bench(file: Path) -> Path:
    left, right = Instance("a red circle", (0.1, 0.1, 0.4, 0.4)), Instance("a blue square", (0.6, 0.5, 0.9, 0.9))
    entries = [Entry(0, "0", prompt_of([left.label, right.label]), (left, right))]
    entries.append(Entry(1, "1", prompt_of([left.label] * 3), (left, right, left)))
    benchmark.write(entries, file)
    return file


def test_every_method_draws_and_a_drawing_is_gone_on_with(tmp_path: Path, adapters: Path) -> None:
    mine = tmp_path / "layout.json"
    mine.write_text(json.dumps({"enabled": True, "main_adapter": {"adapter": LAYOUT_ADAPTER.name}}))
    out = tmp_path / "out"
    told = [f"--out={out}", f"--bench={bench(tmp_path / 'bench.json')}", f"--models={WEIGHTS}"]
    told += [f"--adapters={adapters}", "--checkpoint=shapes", f"--steps={STEPS}", "--size=64", "--cfg-scale=3"]
    assert command.main([*told, "--methods=interact"]) == 0
    first = {file: file.stat().st_mtime_ns for file in out.rglob("*.png")}
    assert len(first) == 2
    assert command.main([*told, "--methods", ",".join(BUILT_IN), "--settings", str(mine)]) == 0
    assert all(file.stat().st_mtime_ns == time for file, time in first.items())
    pixels = {}
    for name in (*BUILT_IN, "layout"):
        for key in ("0", "1"):
            record = json.loads((out / name / f"{key}.json").read_text())
            with Image.open(out / name / f"{key}.png") as picture:
                assert picture.size == (64, 64)
                pixels[name, key] = np.asarray(picture)
            assert record["evaluations"]["shapes"] == STEPS and record["seconds"] > 0
            assert record["evaluations"].get("main", 0) == CO_EVALUATIONS.get(
                name, record["evaluations"].get("main", 0)
            )
            assert record["fresh"] == (key == "0") and "no WebUI" in record["place"]
    assert json.loads((out / "defaults" / "0.json").read_text())["evaluations"]["main"] > 0
    for key in ("0", "1"):
        drawn = [pixels[name, key].tobytes() for name in (*BUILT_IN, "layout")]
        assert len(set(drawn)) == len(drawn), "two methods drew the same"
