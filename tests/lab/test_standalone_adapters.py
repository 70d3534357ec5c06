"""Adapters without a WebUI: on co-models and on the main model, what must hold exactly, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import itertools

import random_adapters as adapter_files
import torch
from PIL import Image
from random_adapters import ACTION, BOXES, GLIGEN, INTERACT, IP_ADAPTER, IP_PLUS, KINDS, LAYOUTS, MIGC
from safetensors.torch import save_file

from amdm_lab.bundled import WEIGHTS
from amdm_lab.studio.host import Job, Result, Standalone
from lib_amdm.comodels import adapter_use, image_features
from lib_amdm.errors import AmdmError
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import Settings

MAIN, OTHER = "all", "shapes"
PICTURE = as_text(Image.effect_mandelbrot((40, 30), (-2, -1.5, 1, 1.5), 20))
OTHER_PICTURE = as_text(Image.linear_gradient("L"))
STEPS, K = 5, 2
JOB = Job(MAIN, ["a red circle"] * 2, [3, 4], steps=STEPS, cfg_scale=3, width=64, height=64)

pytestmark = pytest.mark.skipif(not (WEIGHTS / f"{MAIN}.safetensors").is_file(), reason="no bundled checkpoints")


@pytest.fixture(scope="module")
def host(adapter_folder: Path) -> Standalone:
    return Standalone(WEIGHTS, adapter_folders=[adapter_folder], most_loaded=8)


def adapter(kind: str, **told: Any) -> dict[str, Any]:
    needs = {"layout": LAYOUTS[kind]} if kind in LAYOUTS else {"image": PICTURE}
    return {"adapter": kind, **needs, **told}


def slot(checkpoint: str = "main", **told: Any) -> dict[str, Any]:
    return {"checkpoint": checkpoint, "gamma": 0.5, "eta": 0.2, **told}


def draw(host: Standalone, *slots: dict[str, Any], job: Job = JOB, **main: Any) -> Result:
    told = {"enabled": True, "steps": K, "eta": 0.2, "co_models": list(slots), **main}
    return host.generate(job, Settings.from_dict(told))


def equal(one: Result, other: Result) -> bool:
    return torch.equal(one.latents, other.latents)


def apart(one: Result, other: Result) -> float:
    return (one.latents - other.latents).abs().max().item()


@pytest.fixture(scope="module")
def alone(host: Standalone) -> Result:
    return host.generate(JOB)


@pytest.fixture(scope="module")
def without_adapter(host: Standalone) -> dict[str, Result]:
    """With one slot and no adapter, by the slot's checkpoint."""
    return {checkpoint: draw(host, slot(checkpoint)) for checkpoint in ("main", OTHER)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpoint", ["main", OTHER])
def test_each_kind_acts_as_a_co_model_and_leaves_nothing(
    host: Standalone, alone: Result, without_adapter: dict[str, Result], kind: str, checkpoint: str
) -> None:
    plain, adapted = without_adapter[checkpoint], draw(host, slot(checkpoint, **adapter(kind)))
    assert (plain.latents - adapted.latents).abs().max() > 1e-3
    assert torch.isfinite(adapted.latents).all()
    assert (adapted.evaluations, adapted.co_evaluations) == (STEPS, [K])
    assert equal(adapted, draw(host, slot(checkpoint, **adapter(kind))))
    assert equal(host.generate(JOB), alone)
    assert hooks(host) == 0


def hooks(host: Standalone) -> int:
    modules = [module for name in (MAIN, OTHER) for module in host.load(name).model.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_acts_on_the_main_model_in_its_share_of_the_steps(host: Standalone, alone: Result, kind: str) -> None:
    drawn = {until: draw(host, main_adapter=adapter(kind, until=until)) for until in (0.0, 0.4, 0.5, 1.0)}
    assert equal(drawn[0.0], alone)
    assert equal(draw(host, main_adapter=adapter(kind, strength=0)), alone)
    # step 2 of 5 begins where 0.4 of them are done, and 0.5 are not
    different = [drawn[0.0], drawn[0.4], drawn[0.5], drawn[1.0]]
    assert all((a.latents - b.latents).abs().max() > 1e-4 for a, b in itertools.pairwise(different))
    assert drawn[1.0].evaluations == STEPS and drawn[1.0].co_evaluations == []
    assert equal(host.generate(JOB), alone) and hooks(host) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("idle", [{"strength": 0}, {"until": 0}])
def test_an_idle_adapter_on_a_slot_is_none(
    host: Standalone, without_adapter: dict[str, Result], kind: str, idle: dict[str, float]
) -> None:
    assert equal(draw(host, slot(**adapter(kind, **idle))), without_adapter["main"])


def test_the_main_models_adapter_does_not_reach_a_co_model_on_its_unet(host: Standalone) -> None:
    """With gamma 1 and no correction the latents are the co-model's own, whatever the main model does.

    Up to rounding: what the sampler gets is the main model's prediction and a change.
    """
    told: dict[str, Any] = {"gamma": 1, "eta": 0}
    main: dict[str, Any] = {"steps": STEPS, "evaluations": 0, "eta": 0}
    bare = draw(host, slot(**told), **main)
    both = draw(host, slot(**told), **main, main_adapter=adapter(GLIGEN))
    assert apart(bare, both) < 1e-4
    adapted = draw(host, slot(**told, **adapter(IP_ADAPTER)), **main, main_adapter=adapter(GLIGEN))
    assert apart(adapted, both) > 1e-2
    assert apart(adapted, draw(host, slot(**told, **adapter(IP_ADAPTER)), **main)) < 1e-4


@pytest.mark.parametrize("kind", [GLIGEN, IP_ADAPTER])
def test_where_an_adapter_ends_its_co_model_is_evaluated_once_more(host: Standalone, kind: str) -> None:
    """The difference that a co-model has with its adapter is not reused for the same model without it."""
    main: dict[str, Any] = {"steps": STEPS, "evaluations": 1}
    for until, count in ((1.0, 1), (0.4, 2), (0.0, 1)):
        assert draw(host, slot(**adapter(kind, until=until)), slot(), **main).co_evaluations == [count, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_images(host: Standalone, kind: str) -> None:
    told = slot(**adapter(kind))
    batch = draw(host, told, main_adapter=adapter(kind))
    for index, seed in enumerate(JOB.seeds):
        one = draw(host, told, main_adapter=adapter(kind), job=replace(JOB, prompts=JOB.prompts[:1], seeds=[seed]))
        assert (one.latents[0] - batch.latents[index]).abs().max() < 1e-4


def test_prompts_of_several_parts_and_lengths_are_told_apart(host: Standalone) -> None:
    """Rows of one image's parts, of another's, and of negative prompts in calls of their own."""
    long = " and ".join(["a red circle on a green ground"] * 12)
    job = replace(JOB, prompts=["a red circle AND a blue square :0.5", long], negative_prompts=["", "a star"])
    for kind in (IP_ADAPTER, GLIGEN):
        batch = draw(host, slot(**adapter(kind)), job=job, main_adapter=adapter(kind))
        for index in range(2):
            one = replace(
                job,
                prompts=[job.prompts[index]],
                seeds=[job.seeds[index]],
                negative_prompts=[job.negative_prompts[index]],
            )
            alone = draw(host, slot(**adapter(kind)), job=one, main_adapter=adapter(kind))
            assert (alone.latents[0] - batch.latents[index]).abs().max() < 1e-4


def test_the_three_runs_of_the_paper(host: Standalone) -> None:
    paper: dict[str, Any] = {"correction": "paper", "eta": 55, "main_adapter": adapter(INTERACT), "steps": 3}
    co = {"checkpoint": "main", "noise": "independent", "eta": 45}
    migc, ip = co | adapter(MIGC, gamma=0.5), co | adapter(IP_ADAPTER, gamma=0.45, strength=0.8)
    runs = [draw(host, *slots, **paper) for slots in ((migc,), (ip,), (migc, ip))]
    assert [run.co_evaluations for run in runs] == [[3], [3], [3, 3]]
    assert all(run.evaluations == STEPS and torch.isfinite(run.latents).all() for run in runs)
    assert not equal(runs[0], runs[1]) and not equal(runs[1], runs[2])


def test_another_picture_is_another_result(host: Standalone) -> None:
    for kind in (IP_ADAPTER, IP_PLUS):
        one, other = (draw(host, slot(**adapter(kind, image=image))) for image in (PICTURE, OTHER_PICTURE))
        assert not equal(one, other)


def test_a_second_picture_opens_no_file_and_encodes_nothing(host: Standalone, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [slot(**adapter(kind)) for kind in KINDS]
    first = draw(host, *told, main_adapter=adapter(INTERACT))

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("read or encoded again")

    for module, name in (
        (adapter_use, "read_adapter"),
        (image_features, "read_clip_vision"),
        (image_features, "open_tensor_file"),
    ):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(host.load(MAIN).model.text_encoder, "forward", refuse)
    assert equal(draw(host, *told, main_adapter=adapter(INTERACT)), first)


def test_two_threads_get_what_one_gets(host: Standalone) -> None:
    """A main adapter hangs on a network that the other thread's picture is drawn with too."""
    jobs = [(replace(JOB, seeds=[1, 2]), {"main_adapter": adapter(GLIGEN)}), (replace(JOB, seeds=[3, 4]), {})]
    wanted = [draw(host, slot(), job=job, **main) for job, main in jobs]
    with ThreadPoolExecutor(len(jobs)) as threads:
        for _ in range(3):
            drawn = [threads.submit(draw, host, slot(), job=job, **main) for job, main in jobs]
            assert all(equal(one.result(), other) for one, other in zip(drawn, wanted))


def test_what_is_loaded_is_listed_and_forgotten(adapter_folder: Path) -> None:
    host = Standalone(WEIGHTS, adapter_folders=[adapter_folder], most_loaded=1)
    draw(host, slot(**adapter(GLIGEN)), slot(**adapter(MIGC)), main_adapter=adapter(INTERACT))
    assert {entry.name for entry in host.loaded() if entry.kind == "adapter"} == {GLIGEN, MIGC, INTERACT}
    draw(host, slot(**adapter(IP_ADAPTER)))
    assert {entry.name for entry in host.loaded() if entry.kind == "adapter"} == {IP_ADAPTER}
    assert len(host.unload()) == 2
    assert host.loaded() == []


MANY = "\n".join(f"thing {n}: 0 0 0.5 1" for n in range(31))


@pytest.fixture(scope="module")
def refusing(adapter_folder: Path) -> Standalone:
    """A host with files that cannot be used beside those that can."""
    shape = adapter_files.Shape.of(WEIGHTS / f"{MAIN}.safetensors")
    save_file(
        {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}, adapter_folder / "checkpoint.safetensors"
    )
    save_file({"lora_unet_mid.lora_up.weight": torch.zeros(1)}, adapter_folder / "lora.safetensors")
    wide = replace(shape, blocks={name: 2 * width for name, width in shape.blocks.items()})
    save_file(adapter_files.gligen(wide), adapter_folder / "large.safetensors")
    save_file(adapter_files.ip_adapter(replace(shape, context=2048)), adapter_folder / "xl.safetensors")
    return Standalone(WEIGHTS, adapter_folders=[adapter_folder])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"adapter": "gone"}, "not in the list of adapters"),
        ({"adapter": "/etc/passwd"}, "not in the list of adapters"),
        ({"adapter": IP_ADAPTER}, "needs a reference picture; choose one as the image of"),
        ({"adapter": IP_ADAPTER, "image": "bm90aGluZw=="}, "image cannot be read"),
        ({"adapter": GLIGEN}, "needs a layout"),
        ({"adapter": INTERACT, "layout": BOXES}, "subject, action and object"),
        ({"adapter": GLIGEN, "layout": MANY}, "takes 30 boxes and the layout has 31"),
        ({"adapter": MIGC, "layout": MANY}, "28"),
        ({"adapter": GLIGEN, "layout": f"{'word ' * 80}: 0 0 1 1"}, "more than 75 tokens"),
        ({"adapter": "checkpoint.safetensors", "layout": ACTION}, "is a checkpoint"),
        ({"adapter": "lora.safetensors", "layout": ACTION}, "is a LoRA"),
        ({"adapter": "large.safetensors", "layout": ACTION}, "does not fit the checkpoint"),
        ({"adapter": "xl.safetensors", "image": PICTURE}, "is for SDXL, but the checkpoint it is put on is SD1"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_slots_name(
    refusing: Standalone, told: dict[str, str], words: str
) -> None:
    with pytest.raises(AmdmError, match=words) as caught:
        draw(refusing, slot(), slot(**told))
    assert str(caught.value).startswith("AMDM co-model 2: ") or "phrase" in words or "75" in words
    with pytest.raises(AmdmError, match=words):
        draw(refusing, main_adapter=told)


def test_an_encoder_that_is_missing_is_named(tmp_path: Path) -> None:
    adapter_files.write(tmp_path, adapter_files.Shape.of(WEIGHTS / f"{MAIN}.safetensors"))
    (tmp_path / adapter_files.ENCODER).unlink()
    host = Standalone(WEIGHTS, adapter_folders=[tmp_path])
    with pytest.raises(AmdmError, match=r"needs the image encoder .* models/clip_vision"):
        draw(host, slot(**adapter(IP_ADAPTER)))
