"""Adapters on a real WebUI: every kind, as a co-model on the main checkpoint and on another, and on the main model."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import random_adapters as adapter_files
from PIL import Image
from random_adapters import BOXES, GLIGEN, INTERACT, IP_ADAPTER, KINDS, LAYOUTS, MIGC
from safetensors.torch import save_file

from lib_amdm.webui import presets

from .probed import STEPS, Probed, distance, settings, slot

EACH = pytest.mark.parametrize("kind", KINDS)
PROMPT = "a red square"
SUMS = 5e-4
"""The distance to which the order of additions can take latents of size 10; a wrong row is a thousand times that."""


def picture(seed: int = 0) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def adapter(kind: str, **more: Any) -> dict[str, Any]:
    needs = {"layout": LAYOUTS[kind]} if kind in LAYOUTS else {"image": picture()}
    return {"adapter": kind, **needs, **more}


def with_main(kind: str, **told: Any) -> dict[str, Any]:
    """The adapter on the main model, and no co-model."""
    return {"enabled": True, "co_models": [], "main_adapter": adapter(kind, **told)}


@pytest.fixture(scope="module", autouse=True)
def files(probed: Probed) -> Iterator[None]:
    """An adapter file of each kind, in AMDM's own folder and in one that ControlNet's users have."""
    if "adapters" in probed.server.host.lacks:
        pytest.skip(probed.server.host.lacks["adapters"])
    models = probed.server.data / "models"
    shape = adapter_files.Shape.of(probed.server.checkpoint_folder / "alpha.safetensors")
    adapter_files.write(models / "amdm", shape)
    (models / "ControlNet").mkdir(exist_ok=True)
    (models / "amdm" / IP_ADAPTER).rename(models / "ControlNet" / IP_ADAPTER)
    yield
    probed.unload()


def test_a_file_whose_name_is_no_utf8_is_listed_and_its_remedy_is_named(probed: Probed) -> None:
    folder = probed.server.data / "models" / "amdm"
    odd = folder / os.fsdecode(b"caf\xe9.safetensors")
    odd.write_bytes((folder / GLIGEN).read_bytes())
    try:
        # a name that is not in the list has the folders looked through again
        probed.fail(settings(slot("main", **adapter("lost.safetensors"))))
        listed = [name for name in probed.server.call("/amdm/v1/models")["adapters"] if name.startswith("caf")]
        assert len(listed) == 1
        failed = probed.fail(settings(slot("main", **{**adapter(GLIGEN), "adapter": listed[0]})))
        assert '.safetensors" has a name that is no UTF-8' in failed.message
        assert failed.message.endswith("; rename it.")
    finally:
        odd.unlink()


@pytest.fixture(scope="module")
def plain(probed: Probed) -> np.ndarray:
    """The latent of the main model alone."""
    return probed.draw(prompt=PROMPT).latent


# --- co-models ---


@EACH
@pytest.mark.parametrize("checkpoint", ["main", "beta"])
def test_it_acts_on_a_co_model_and_on_nothing_else(
    probed: Probed, plain: np.ndarray, kind: str, checkpoint: str
) -> None:
    before = probed.snapshot()
    bare = probed.draw(settings(slot(checkpoint)), prompt=PROMPT)
    adapted = probed.draw(settings(slot(checkpoint, **adapter(kind))), prompt=PROMPT)
    again = probed.draw(settings(slot(checkpoint, **adapter(kind))), prompt=PROMPT)
    assert distance(adapted.latent, bare.latent) > 1e-3
    assert distance(adapted.latent, again.latent) == 0
    assert adapted.report["denoiser"] == STEPS
    on_main = checkpoint == "main"
    assert adapted.report["co_models"] == ([] if on_main else [2])
    assert adapted.report["unet"]["main"] == STEPS + (2 if on_main else 0)
    assert kind in adapted.infotext
    assert distance(probed.draw(prompt=PROMPT).latent, plain) == 0
    assert probed.snapshot() == before


@EACH
@pytest.mark.parametrize("idle", [{"strength": 0}, {"until": 0}], ids=str)
@pytest.mark.parametrize("checkpoint", ["main", "beta"])
def test_an_idle_one_changes_nothing_and_is_kept_in_the_infotext(
    probed: Probed, kind: str, idle: dict[str, int], checkpoint: str
) -> None:
    bare = probed.draw(settings(slot(checkpoint)), prompt=PROMPT)
    drawn = probed.draw(settings(slot(checkpoint, **adapter(kind, **idle))), prompt=PROMPT)
    assert np.array_equal(drawn.picture, bare.picture) and distance(drawn.latent, bare.latent) == 0
    assert kind in drawn.infotext


@EACH
def test_on_the_main_checkpoint_it_is_all_that_is_loaded(probed: Probed, kind: str) -> None:
    probed.unload()
    probed.draw(settings(slot("main", **adapter(kind))), prompt=PROMPT)
    loaded = probed.server.call("/amdm/v1/models")["loaded"]
    assert [entry.get("adapter") for entry in loaded] == [kind]
    assert loaded[0]["bytes"] > 0
    assert probed.unload()["unloaded"] == 1


# --- the main model ---


@EACH
def test_it_acts_on_the_main_model_in_its_share_of_the_steps(probed: Probed, plain: np.ndarray, kind: str) -> None:
    before = probed.snapshot()
    drawn = {until: probed.draw(with_main(kind, until=until), prompt=PROMPT) for until in (0, 0.5, 1)}
    assert distance(drawn[0].latent, plain) == 0 and "AMDM" not in drawn[0].infotext
    assert distance(drawn[0.5].latent, plain) > 1e-3
    assert distance(drawn[1].latent, drawn[0.5].latent) > 1e-3
    assert distance(probed.draw(with_main(kind, strength=0), prompt=PROMPT).latent, plain) == 0
    assert drawn[1].report["denoiser"] == drawn[1].report["unet"]["main"] == STEPS
    assert f"AMDM main adapter: {kind}" in drawn[1].infotext and "AMDM 1" not in drawn[1].infotext
    assert distance(probed.draw(prompt=PROMPT).latent, plain) == 0
    assert probed.snapshot() == before


@EACH
def test_that_of_the_main_model_does_not_reach_a_co_model_on_it(probed: Probed, kind: str) -> None:
    alone = {"gamma": 1, "eta": 0}
    bare = probed.draw(settings(slot("main", **alone), eta=0, steps=STEPS), prompt=PROMPT)
    adapted = settings(slot("main", **alone), eta=0, steps=STEPS, main_adapter=adapter(kind))
    # the co-model's prediction is the main model's own and a difference, which rounds it
    assert distance(probed.draw(adapted, prompt=PROMPT).latent, bare.latent) < SUMS


def test_the_main_models_and_a_co_models_are_two(probed: Probed) -> None:
    alone = {"gamma": 1, "eta": 0}
    co = slot("main", **alone, **adapter(IP_ADAPTER))
    bare = probed.draw(settings(co, eta=0, steps=STEPS), prompt=PROMPT)
    both = probed.draw(settings(co, eta=0, steps=STEPS, main_adapter=adapter(GLIGEN)), prompt=PROMPT)
    assert distance(both.latent, bare.latent) < SUMS


def test_k_0_leaves_the_main_models(probed: Probed) -> None:
    told = {**with_main(GLIGEN), "steps": 0, "co_models": [slot("beta")]}
    drawn = probed.draw(told, prompt=PROMPT)
    assert distance(drawn.latent, probed.draw(with_main(GLIGEN), prompt=PROMPT).latent) == 0
    assert "AMDM 1 checkpoint" not in drawn.infotext


# --- rows of the batch ---

FAR = " ".join(["word"] * 310)
"""So many more tokens than a short text has that no WebUI evaluates both in one call."""

ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one call": ({}, {}),
    "parts": ({"prompt": "a red square AND a blue circle :0.5"}, {}),
    "uncond and cond apart": ({}, {"batch_cond_uncond": False}),
    "texts of two lengths": ({"negative_prompt": " ".join(["word"] * 90)}, {}),
    "a far longer text": ({"negative_prompt": FAR}, {}),
    "parts of two lengths": ({"prompt": " ".join(["a red"] * 45) + " AND a square"}, {"batch_cond_uncond": False}),
    "negatives left out at first": ({}, {"skip_early_cond": 0.4}),
    "negatives left out later": ({}, {"s_min_uncond": 4, "s_min_uncond_all": True}),
    "padded": ({"negative_prompt": " ".join(["word"] * 90)}, {"pad_cond_uncond": True}),
}


@pytest.mark.parametrize("feature", ROWS)
@pytest.mark.parametrize("kind", [IP_ADAPTER, GLIGEN, MIGC])
def test_a_batch_is_its_pictures_however_it_is_evaluated(probed: Probed, kind: str, feature: str) -> None:
    parameters, options = ROWS[feature]
    if "uncond and cond apart" in probed.server.host.lacks:
        # and so it has no such option
        options = {name: value for name, value in options.items() if name != "batch_cond_uncond"}
    told = settings(slot("main", **adapter(kind)), main_adapter=adapter(kind))

    def draw(**more: Any) -> np.ndarray:
        request = {"prompt": PROMPT, **parameters, **more}
        return probed.with_options(options, lambda: probed.draw(told, **request).latent)

    batch = draw(batch_size=2, seed=5)
    assert distance(batch[0], batch[1]) > 0.1
    for index in range(2):
        assert distance(draw(seed=5 + index)[0], batch[index]) < SUMS


@pytest.mark.parametrize("kind", [IP_ADAPTER, GLIGEN, MIGC])
def test_each_side_is_the_same_in_a_call_of_its_own(probed: Probed, kind: str) -> None:
    """A CFG scale of 0 draws the negative side alone, and one that is hardly above 1 the positive side."""
    told = settings(slot("main", **adapter(kind)), main_adapter=adapter(kind))
    for scale, other_side in ((0, "prompt"), (1 + 1e-6, "negative_prompt")):
        sides = {"prompt": PROMPT, "negative_prompt": "", "cfg_scale": scale}
        together, apart = (probed.draw(told, **{**sides, other_side: text}) for text in ("a text", FAR))
        assert apart.report["unet"]["main"] == 2 * together.report["unet"]["main"]
        assert distance(apart.latent, together.latent) < SUMS


@pytest.mark.needs("uncond and cond apart")
def test_it_does_not_matter_in_how_many_calls(probed: Probed) -> None:
    for kind in (IP_ADAPTER, GLIGEN, MIGC):
        told = settings(slot("main", **adapter(kind)), main_adapter=adapter(kind))
        together = probed.draw(told, prompt=PROMPT).latent
        apart = probed.with_options({"batch_cond_uncond": False}, partial(probed.draw, told, prompt=PROMPT))
        assert distance(apart.latent, together) < SUMS


# --- samplers and passes ---


@pytest.mark.parametrize(
    "sampler", ["Euler a", "Heun", "DPM++ 2M", "DPM++ SDE", "DDIM", "UniPC", "DPM adaptive", "LCM"]
)
def test_samplers(probed: Probed, sampler: str) -> None:
    bare = probed.draw(prompt=PROMPT, sampler_name=sampler).latent
    told = settings(slot("beta", **adapter(GLIGEN)), main_adapter=adapter(IP_ADAPTER))
    first, second = (probed.draw(told, prompt=PROMPT, sampler_name=sampler).latent for _ in range(2))
    assert distance(first, second) == 0 and np.isfinite(first).all()
    assert distance(first, bare) > 1e-3
    assert distance(probed.draw(prompt=PROMPT, sampler_name=sampler).latent, bare) == 0


@pytest.mark.parametrize("kind", [IP_ADAPTER, GLIGEN, INTERACT, MIGC])
def test_hires_fix_and_img2img(probed: Probed, kind: str) -> None:
    told = settings(slot("main", **adapter(kind)), main_adapter=adapter(kind), **{"pass": "both"})
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    drawn, bare = (probed.draw(amdm, prompt=PROMPT, **hires) for amdm in (told, None))
    assert len(drawn.latents) == 2
    assert all(distance(one, other) > 1e-3 for one, other in zip(drawn.latents, bare.latents))
    init = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    drawn, bare = (probed.draw(amdm, prompt=PROMPT, init=init, denoising_strength=0.8) for amdm in (told, None))
    assert distance(drawn.latent, bare.latent) > 1e-3


def test_the_main_models_works_in_both_passes_whatever_the_pass_is(probed: Probed) -> None:
    hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    bare = probed.draw(settings(slot("beta")), prompt=PROMPT, **hires).latents
    told = probed.draw(settings(slot("beta"), main_adapter=adapter(GLIGEN)), prompt=PROMPT, **hires).latents
    later = probed.draw(
        settings(slot("beta"), main_adapter=adapter(GLIGEN), **{"pass": "hires"}), prompt=PROMPT, **hires
    )
    assert distance(told[0], bare[0]) > 1e-3 and distance(told[1], bare[1]) > 1e-3
    assert distance(later.latents[0], probed.draw(with_main(GLIGEN), prompt=PROMPT).latent) == 0
    assert later.report["co_models"] == [2]


# --- what it costs ---


def test_a_second_picture_opens_no_file_and_encodes_nothing(probed: Probed) -> None:
    told = settings(slot("beta", **adapter(IP_ADAPTER)), slot("main", **adapter(MIGC)), main_adapter=adapter(INTERACT))
    # the files may be newer than the list of adapters, which a picture that does not find one reads again
    probed.draw(told, prompt=PROMPT)
    probed.unload()
    first, second = (probed.draw(told, prompt=PROMPT) for _ in range(2))
    assert {"beta.safetensors", IP_ADAPTER, MIGC, INTERACT, adapter_files.ENCODER} <= set(first.report["opened"])
    assert second.report["opened"] == []
    assert second.report["texts"] == {"main": 0, "co": 0}
    assert distance(first.latent, second.latent) == 0


TINY = {presets.INTERACT_DIFFUSION: INTERACT, presets.MIGC: MIGC, presets.IP_ADAPTER: IP_ADAPTER}


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
def test_the_papers_runs(probed: Probed, preset: presets.Preset) -> None:
    told = preset.settings.to_dict()
    for adapted in (told["main_adapter"], *told["co_models"]):
        adapted["adapter"] = TINY[adapted["adapter"]]
        if adapted["adapter"] == IP_ADAPTER:
            adapted["image"] = picture()
    steps, slots = preset.sampling_steps, len(told["co_models"])
    drawn = probed.draw(told, prompt="a boy is kicking a ball", steps=steps, sampler_name="Euler")
    assert drawn.report["denoiser"] == steps
    assert drawn.report["unet"]["main"] == steps + 3 * slots
    assert drawn.report["co_models"] == [], "no second UNet"
    assert np.isfinite(drawn.latent).all() and drawn.picture.std() > 0


# --- SDXL ---

XL_FILES = {"ip-adapter_sdxl_tiny.safetensors": False, "ip-adapter-plus_sdxl_tiny.safetensors": True}


@pytest.fixture(scope="module")
def xl_files(probed: Probed) -> None:
    if probed.server.host.sizes == "small":
        pytest.skip("the small SDXL checkpoints have texts of another width than SDXL's")
    shape = adapter_files.Shape.of(probed.server.checkpoint_folder / "xl-alpha.safetensors")
    for name, plus in XL_FILES.items():
        save_file(adapter_files.ip_adapter(shape, plus=plus), probed.server.data / "models" / "amdm" / name)


@pytest.mark.parametrize("kind", XL_FILES)
def test_an_ip_adapter_for_sdxl(probed: Probed, xl_files: None, kind: str) -> None:
    def draw(amdm: Any = None) -> np.ndarray:
        return probed.draw(amdm, prompt=PROMPT, checkpoint="xl-alpha").latent

    told = {"adapter": kind, "image": picture()}
    alone, before = draw(), probed.snapshot()
    for checkpoint in ("main", "xl-beta"):
        bare, idle, adapted = (
            draw(settings(slot(checkpoint, **extra))) for extra in ({}, {**told, "strength": 0}, told)
        )
        assert distance(idle, bare) == 0 and distance(adapted, bare) > 1e-3
    on_main = {"enabled": True, "co_models": [], "main_adapter": told}
    assert distance(draw(on_main), alone) > 1e-3
    assert distance(draw(), alone) == 0 and probed.snapshot() == before
    failed = probed.fail(on_main, prompt=PROMPT, checkpoint="alpha")
    assert kind in failed.message and "is for SDXL" in failed.message


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"adapter": "gone.bin"}, "is not in the list of adapters"),
        ({"adapter": "../../models/Stable-diffusion/alpha.safetensors"}, "is not in the list of adapters"),
        ({"adapter": IP_ADAPTER}, "needs a reference picture"),
        ({"adapter": GLIGEN}, "needs a layout"),
        ({"adapter": INTERACT, "layout": BOXES}, "subject, action and object"),
        ({"adapter": MIGC, "layout": "\n".join(f"thing {n}: 0 0 1 1" for n in range(29))}, "28"),
        ({"adapter": GLIGEN, "layout": "a ball: 0 0 2 2"}, "has a row 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_named_before_anything_is_evaluated(
    probed: Probed, plain: np.ndarray, told: dict[str, str], words: str
) -> None:
    for amdm, who in (
        (settings(slot("beta"), slot("main", **told)), "co-model 2"),
        ({"enabled": True, "main_adapter": told}, "AMDM"),
    ):
        failed = probed.fail(amdm, prompt=PROMPT)
        assert words in failed.message
        assert who in failed.message or "co-model 2" in failed.message
        assert failed.report["unet"] == {"main": 0, "co": 0}
    assert distance(probed.draw(prompt=PROMPT).latent, plain) == 0


@pytest.mark.parametrize("family", ["xl-alpha", pytest.param("sd2-alpha", marks=pytest.mark.needs("SD2"))])
def test_a_checkpoint_of_another_family_is_refused(probed: Probed, family: str) -> None:
    failed = probed.fail(with_main(GLIGEN), prompt=PROMPT, checkpoint=family)
    assert GLIGEN in failed.message and "is for SD1" in failed.message
    probed.draw(prompt=PROMPT, checkpoint="alpha")


@pytest.mark.parametrize("fault", ["exception", "interrupt", "skip"])
@pytest.mark.parametrize("at", ["main", "co"])
def test_what_breaks_off_in_the_middle_leaves_nothing(probed: Probed, plain: np.ndarray, fault: str, at: str) -> None:
    before = probed.snapshot()
    told = settings(slot("beta", **adapter(GLIGEN)), main_adapter=adapter(IP_ADAPTER))
    probed.try_to_draw(told, prompt=PROMPT, fault={"fault": fault, "at": at, "call": 2})
    assert probed.snapshot() == before
    assert distance(probed.draw(prompt=PROMPT).latent, plain) == 0


def test_settings_are_pasted_back_but_for_the_picture(probed: Probed) -> None:
    told = settings(slot("main", **adapter(GLIGEN, strength=0.5, until=0.75)), main_adapter=adapter(INTERACT))
    drawn = probed.draw(told, prompt=PROMPT)
    again = probed.draw(None, infotext=drawn.infotext)
    assert distance(again.latent, drawn.latent) == 0
    pictured = probed.draw(settings(slot("main", **adapter(IP_ADAPTER))), prompt=PROMPT)
    assert "AMDM 1 adapter image: " in pictured.infotext
