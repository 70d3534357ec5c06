"""Whole pictures on a pretended device, without a WebUI: nothing is mixed with the CPU's, and a mixed step is quiet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image
from pretend_device import DEVICE, Arrival, Elsewhere, pretended
from random_adapters import GLIGEN, IP_ADAPTER, LAYOUTS, MIGC

from amdm_lab.bundled import WEIGHTS
from amdm_lab.studio.host import Job, Result, Standalone
from lib_amdm.core import accelerator
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import Settings

MAIN, OTHER = "all", "shapes"
STEPS = 2
JOB = Job(MAIN, ["a red circle"], [3], steps=STEPS, cfg_scale=3, width=32, height=32)
PICTURE = as_text(Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 20))
TWO = ({"checkpoint": "main", "prompt": "a blue cross"}, {"checkpoint": OTHER})

pytestmark = pytest.mark.skipif(not (WEIGHTS / f"{MAIN}.safetensors").is_file(), reason="no bundled checkpoints")


@pytest.fixture(scope="module")
def here(adapter_folder: Path) -> Standalone:
    return Standalone(WEIGHTS, adapter_folders=[adapter_folder], most_loaded=8)


@pytest.fixture(scope="module")
def there(adapter_folder: Path) -> Standalone:
    """A host of the pretended device; its pictures are drawn within `pretended`."""
    return Standalone(WEIGHTS, device=DEVICE, adapter_folders=[adapter_folder], most_loaded=8)


def told(steps: int, *slots: dict[str, Any], **main: Any) -> Settings:
    """Settings with these co-models, evaluated in each of so many steps."""
    co_models = [{"gamma": 0.4, "eta": 0.2, **slot} for slot in slots]
    return Settings.from_dict({"enabled": True, "steps": steps, "evaluations": 0, "co_models": co_models, **main})


def in_one_and_in_two_steps(
    host: Standalone, monkeypatch: pytest.MonkeyPatch, *slots: dict[str, Any], **main: Any
) -> tuple[Counter[str], Counter[str], Result]:
    """The waits of a picture with co-models in one step, and in two, each drawn before; and the second picture."""
    found = []
    with pretended() as traffic:
        monkeypatch.setitem(accelerator.EVENTS, DEVICE.type, lambda device, timed: Arrival(traffic))
        host.generate(JOB, told(1, *slots, **main))
        for steps in (1, 2):
            before = Counter(traffic)
            drawn = host.generate(JOB, told(steps, *slots, **main))
            found.append(traffic - before)
    return found[0], found[1], drawn


def same(one: Result, other: Result) -> bool:
    return (one.latents - other.latents).abs().max().item() < 1e-4


def test_two_co_models_are_there_with_all_their_weights(here: Standalone, there: Standalone) -> None:
    settings = told(1, *TWO)
    with pretended():
        drawn = there.generate(JOB, settings)
        models = [there.load(name).model for name in (MAIN, OTHER)]
        tensors = [t for model in models for t in (*model.parameters(), *model.buffers())]
        assert {type(tensor.data) for tensor in tensors} == {Elsewhere}
    assert drawn.evaluations == STEPS and drawn.co_evaluations == [1, 1]
    assert same(drawn, here.generate(JOB, settings))
    assert not same(drawn, here.generate(JOB))


def test_a_further_mixed_step_reads_and_moves_nothing(there: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, _ = in_one_and_in_two_steps(there, monkeypatch, *TWO)
    assert all(two[waiting] == one[waiting] for waiting in ("read", "move", "wait")), (one, two)
    # a flag of each co-model's answer
    assert two["sent"] - one["sent"] == len(TWO)


@pytest.mark.parametrize("kind", [IP_ADAPTER, GLIGEN, MIGC])
def test_an_adapter_draws_there_what_it_draws_here_and_moves_nothing_once_it_is_prepared(
    here: Standalone, there: Standalone, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a co-model and on the main model, with a picture that is encoded there, or a layout's phrases."""
    needs = {"layout": LAYOUTS[kind]} if kind in LAYOUTS else {"image": PICTURE}
    adapter = {"adapter": kind, **needs}
    slot = {"checkpoint": "main", **adapter}
    one, two, drawn = in_one_and_in_two_steps(there, monkeypatch, slot, main_adapter=adapter)
    assert two["move"] == one["move"] and two["wait"] == one["wait"]
    # this host asks for the level of each evaluation of a model with an adapter, to know whether it still works
    assert two["read"] - one["read"] == 1
    assert same(drawn, here.generate(JOB, told(2, slot, main_adapter=adapter)))


def test_all_of_it_can_leave(there: Standalone) -> None:
    with pretended():
        there.load(MAIN)
        assert there.unload() and not there.loaded()
