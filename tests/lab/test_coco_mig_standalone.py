"""COCO-MIG drawn without a WebUI: every method with adapters of random weights, and the bundled layout adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image

from amdm_lab.bundled import LAYOUT_ADAPTER, WEIGHTS
from amdm_lab.cli import run
from amdm_lab.coco_mig import benchmark
from amdm_lab.coco_mig.benchmark import Entry, Instance, prompt_of
from amdm_lab.coco_mig.recipes import BUILT_IN

STEPS = 6
CO_EVALUATIONS = {
    **dict.fromkeys(("interact", "migc", "layout"), (0,)),
    "paper": (3,),
    "released": (4,),
    "defaults": (1, 2, 3, 4),
}
"""Of the co-model on the main checkpoint; by defaults it is as many as the plan has for 6 steps."""


@pytest.fixture(scope="module")
def adapters(adapter_folder: Path) -> Path:
    (adapter_folder / LAYOUT_ADAPTER.name).write_bytes(LAYOUT_ADAPTER.read_bytes())
    return adapter_folder


def bench(file: Path) -> Path:
    left, right = Instance("a red circle", (0.1, 0.1, 0.4, 0.4)), Instance("a blue square", (0.6, 0.5, 0.9, 0.9))
    benchmark.write([Entry(0, "0", prompt_of([left.label, right.label]), (left, right))], file)
    return file


def test_every_method_draws_and_a_drawing_is_gone_on_with(tmp_path: Path, adapters: Path) -> None:
    mine = tmp_path / "layout.json"
    mine.write_text(json.dumps({"enabled": True, "main_adapter": {"adapter": LAYOUT_ADAPTER.name}}))
    out = tmp_path / "out"
    told = [f"--out={out}", f"--bench={bench(tmp_path / 'bench.json')}", f"--models={WEIGHTS}"]
    told += [f"--adapters={adapters}", "--checkpoint=shapes", f"--steps={STEPS}", "--size=64", "--cfg-scale=3"]
    assert run("coco-mig", [*told, "--methods=interact"]) == 0
    [first] = out.rglob("*.png")
    written = first.stat().st_mtime_ns
    assert run("coco-mig", [*told, "--methods", ",".join(BUILT_IN), "--settings", str(mine)]) == 0
    assert first.stat().st_mtime_ns == written
    pixels = set()
    for name in (*BUILT_IN, "layout"):
        record = json.loads((out / name / "0.json").read_text())
        with Image.open(out / name / "0.png") as picture:
            assert picture.size == (64, 64)
            pixels.add(picture.tobytes())
        counts = record["evaluations"]
        assert counts["shapes.safetensors"] == STEPS and counts.get("main", 0) in CO_EVALUATIONS[name]
        assert record["fresh"] and record["seconds"] > 0 and "no WebUI" in record["place"]
    assert len(pixels) == len(BUILT_IN) + 1, "two methods drew the same"
