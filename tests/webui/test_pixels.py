"""A co-model of another latent space, which sees the main model's picture: SD1 beside SDXL, and the reverse."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import small_autoencoders
from random_adapters import KINDS

from .probed import STEPS, Drawn, Probed, distance, settings, slot
from .test_adapters import adapter
from .test_card import write_adapters
from .test_features import CLOSE, HIRES, INPAINT, VISIBLE, ramp, right_half
from .test_networks import lora  # noqa: F401 -- a fixture
from .webui_server import encode_picture

PAIRS = [("alpha", "xl-alpha"), ("xl-alpha", "alpha")]
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC", "LCM")


def across(co: str, **more: Any) -> dict[str, Any]:
    """A slot whose pictures are as large as the main model's: those of the tests are small."""
    return slot(co, size=0, **more)


def vae_calls(drawn: Drawn) -> list[int]:
    return [int(count) for count in re.findall(r"(\d+) VAE calls", drawn.infotext)]


@pytest.fixture(autouse=True)
def nothing_left(probed: Probed) -> Iterator[None]:
    """Every test leaves the next picture without AMDM as it was."""
    before = probed.draw()
    yield
    assert np.array_equal(probed.draw().picture, before.picture)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("main", "co"), PAIRS)
def test_a_pair_is_drawn_in_the_plan_s_evaluations(probed: Probed, main: str, co: str, sampler: str) -> None:
    request = {"checkpoint": main, "sampler_name": sampler}
    plain = probed.draw(**request)
    amdm = settings(across(co), eta=0, steps=4, evaluations=2)
    drawn, again = (probed.draw(amdm, **request) for _ in range(2))
    assert np.isfinite(drawn.latent).all() and distance(drawn.latent, plain.latent) > VISIBLE
    assert distance(drawn.latent, again.latent) == 0
    assert drawn.report["co_models"] == [2] and drawn.report["denoiser"] == plain.report["denoiser"]
    assert vae_calls(drawn) == [8]
    # with another main checkpoint in each request, Forge and Forge Neo encode its texts anew
    assert again.report["opened"] == [] and again.report["texts"]["co"] == 0


@pytest.mark.needs("SD2")
@pytest.mark.parametrize("others", [("sd2-alpha", "xl-alpha"), ("xl-alpha", "sd2-alpha")])
def test_an_sd2_and_an_sdxl(probed: Probed, others: tuple[str, str]) -> None:
    main, co = others
    plain = probed.draw(checkpoint=main)
    drawn = probed.draw(settings(across(co), eta=0, evaluations=1), checkpoint=main)
    assert np.isfinite(drawn.latent).all() and distance(drawn.latent, plain.latent) > VISIBLE
    assert vae_calls(drawn) == [4]


@pytest.mark.parametrize(("main", "co"), PAIRS)
def test_without_a_share_the_picture_is_the_main_models(probed: Probed, main: str, co: str) -> None:
    plain = probed.draw(checkpoint=main).picture
    for amdm in (settings(across(co, gamma=0)), settings(across(co), steps=0)):
        assert np.array_equal(probed.draw(amdm, checkpoint=main).picture, plain)


@pytest.mark.parametrize(("main", "co"), PAIRS)
def test_the_share_grows_with_gamma(probed: Probed, main: str, co: str) -> None:
    plain = probed.draw(checkpoint=main).latent
    apart = [
        distance(probed.draw(settings(across(co, gamma=gamma), eta=0), checkpoint=main).latent, plain)
        for gamma in (0.01, 0.1, 0.5, 1.0)
    ]
    assert apart == sorted(apart) and apart[-1] > 5 * apart[0]


@pytest.mark.parametrize("of_slot", [True, False])
@pytest.mark.parametrize(("scale", "counts_alone"), [(3.9, False), (4.0, True)])
def test_with_strong_guidance_the_last_prediction_counts_whatever_the_main_model_makes_of_it(
    probed: Probed, scale: float, counts_alone: bool, of_slot: bool
) -> None:
    """The guidance scale is the slot's, or the picture's. Both runs begin at one level."""
    slot_scale, main_scale = (scale, 9.0 - scale) if of_slot else (0, scale)
    few, more = (
        probed.draw(
            settings(across("xl-alpha", gamma=1, cfg_scale=slot_scale), eta=0, steps=steps, evaluations=1),
            sampler_name="Euler",
            scheduler="Karras",
            steps=steps,
            cfg_scale=main_scale,
        ).latent
        for steps in (4, 6)
    )
    assert (distance(few, more) < CLOSE * np.abs(more).max()) == counts_alone


def test_a_batch_is_its_single_pictures(probed: Probed) -> None:
    amdm = settings(across("xl-alpha"), eta=0)
    batch = probed.draw(amdm, batch_size=2).latent
    singles = [probed.draw(amdm, seed=seed).latent for seed in (1, 2)]
    assert distance(batch, np.concatenate(singles)) < CLOSE * max(1, np.abs(batch).max())


def test_a_batch_is_decoded_and_encoded_in_the_calls_of_one_picture(probed: Probed) -> None:
    amdm = settings(across("xl-alpha"), eta=0, evaluations=1)
    assert vae_calls(probed.draw(amdm, batch_size=2)) == vae_calls(probed.draw(amdm)) == [4]


HALF: dict[str, Any] = {"region": "0.5 0 1 1"}


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ({}, {"gamma_end": 0.0}),
        ({}, HALF),
        (HALF, {"feather": 0.3}),
        ({}, {"mask": encode_picture(right_half())}),
        ({}, {"prompt": "{prompt}, at night"}),
        ({}, {"negative_prompt": "a stone"}),
    ],
    ids=lambda slot_settings: "+".join(slot_settings),
)
def test_each_setting_of_its_slot_counts(probed: Probed, before: dict[str, Any], change: dict[str, Any]) -> None:
    without, drawn = (probed.draw(settings(across("xl-alpha", **more), eta=0)) for more in (before, before | change))
    assert np.isfinite(drawn.latent).all() and distance(drawn.latent, without.latent) > 1e-5


def test_it_may_start_late_and_its_infotext_draws_it_again(probed: Probed) -> None:
    first, late = (probed.draw(settings(across("xl-alpha"), eta=0, start=start)) for start in (0, 1))
    assert distance(late.latent, first.latent) > 1e-5
    again = probed.server.pixels(probed.from_infotext(late.infotext))[0]
    assert np.array_equal(again, late.picture)


def test_an_sd1_draws_at_the_size_that_it_was_trained_on(probed: Probed) -> None:
    drawn = probed.draw(settings(slot("alpha"), eta=0, evaluations=1), checkpoint="xl-alpha", steps=3)
    assert {tuple(shape[-2:]) for shape in drawn.report["inputs"]["co"]} == {(64, 64)}
    assert {tuple(shape[-2:]) for shape in drawn.report["inputs"]["main"]} == {(8, 8)}


def test_slots_of_both_kinds_and_a_region(probed: Probed) -> None:
    both = settings(slot("beta"), across("xl-alpha", region="0.5 0 1 1"), eta=0)
    one, drawn = probed.draw(settings(slot("beta"), eta=0)), probed.draw(both)
    assert drawn.report["co_models"] == [2, 2]
    assert distance(drawn.latent, one.latent) > VISIBLE
    there = settings(across("xl-alpha", region="0.5 0 1 1"), eta=0, steps=1)
    plain, right = (probed.draw(amdm, steps=1, sampler_name="Euler").latent for amdm in (None, there))
    assert distance(right[..., :4], plain[..., :4]) == 0 and distance(right[..., 4:], plain[..., 4:]) > VISIBLE


@pytest.mark.parametrize("which", ["first", "hires", "both"])
def test_both_passes_of_hires_fix(probed: Probed, which: str) -> None:
    drawn = probed.draw(settings(across("xl-alpha"), eta=0, **{"pass": which}), **HIRES)
    assert np.isfinite(drawn.latent).all()
    assert vae_calls(drawn) == [8] * (2 if which == "both" else 1)


def test_img2img_and_inpainting(probed: Probed) -> None:
    amdm = settings(across("xl-alpha"), eta=0)
    for request in ({"init": ramp(), "denoising_strength": 0.75}, INPAINT):
        plain, drawn = (probed.draw(given, **request) for given in (None, amdm))
        assert distance(drawn.latent, plain.latent) > VISIBLE
    assert np.array_equal(drawn.picture[:, :32], INPAINT["init"][:, :32]), "the known part stays known"


def test_names_of_modules_change_nothing_where_a_checkpoint_is_one_file(probed: Probed) -> None:
    if probed.server.host.flow_families:
        pytest.skip(f"{probed.server.host.name} has files of modules")
    probed.draw(settings(across("xl-alpha"), eta=0))
    drawn = probed.draw(settings(across("xl-alpha", modules="vae.safetensors"), eta=0))
    assert drawn.report["opened"] == []


@pytest.mark.usefixtures("lora")
def test_its_own_prompt_cfg_and_lora(probed: Probed) -> None:
    plain = probed.draw(settings(across("alpha"), eta=0), checkpoint="xl-alpha").latent
    for more in ({"prompt": "a blue circle"}, {"cfg_scale": 2.0}, {"prompt": "a red square <lora:strong:1>"}):
        changed = probed.draw(settings(across("alpha", **more), eta=0), checkpoint="xl-alpha").latent
        assert np.isfinite(changed).all() and distance(changed, plain) > 1e-5, more


def test_adapters_on_it(probed: Probed) -> None:
    write_adapters(probed.server)
    plain = probed.draw(settings(across("alpha"), eta=0), checkpoint="xl-alpha").latent
    for kind in KINDS:
        drawn = probed.draw(settings(across("alpha", **adapter(kind)), eta=0), checkpoint="xl-alpha").latent
        assert np.isfinite(drawn).all() and distance(drawn, plain) > 1e-5, kind


def test_pairs_that_share_their_latents_may_go_through_pixels_too(probed: Probed) -> None:
    shared, estimate, pixels = (
        probed.draw(settings(slot("beta", noise=noise, size=0), eta=0)) for noise in ("shared", "estimate", "pixels")
    )
    assert distance(shared.latent, estimate.latent) > VISIBLE and distance(estimate.latent, pixels.latent) > 1e-5
    assert vae_calls(shared) == vae_calls(estimate) == [] and vae_calls(pixels) == [8]


def test_the_size_of_its_pictures(probed: Probed) -> None:
    same, larger = (probed.draw(settings(slot("xl-alpha", size=size), eta=0)).latent for size in (0, 2))
    assert np.isfinite(larger).all() and distance(same, larger) > 1e-5


def test_one_kept_model_beside_main_models_of_both_kinds(probed: Probed) -> None:
    """It is loaded with its VAE only where that is needed."""
    beside_its_own = probed.draw(settings(slot("xl-beta"), eta=0), checkpoint="xl-alpha")
    across_first = probed.draw(settings(across("xl-beta"), eta=0))
    again = probed.draw(settings(slot("xl-beta"), eta=0), checkpoint="xl-alpha")
    assert distance(beside_its_own.latent, again.latent) == 0
    assert distance(across_first.latent, probed.draw(settings(across("xl-beta"), eta=0)).latent) == 0
    probed.unload()


@pytest.mark.parametrize("fault", ["exception", "nan", "oom", "interrupt"])
def test_what_fails_in_an_evaluation_leaves_nothing(probed: Probed, fault: str) -> None:
    amdm = settings(across("xl-alpha"), eta=0)
    first = probed.draw(amdm).latent
    result = probed.try_to_draw(amdm, fault={"fault": fault, "call": 1})
    assert isinstance(result, Drawn) == (fault == "interrupt")
    assert distance(probed.draw(amdm).latent, first) == 0


@pytest.mark.parametrize("fault", ["exception", "interrupt"])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_what_fails_between_the_models_leaves_nothing(probed: Probed, fault: str, call: int) -> None:
    """In each decoding and encoding of an evaluation."""
    amdm = settings(across("xl-alpha"), eta=0, evaluations=1)
    first = probed.draw(amdm).latent
    result = probed.try_to_draw(amdm, fault={"fault": fault, "at": "vae", "call": call})
    assert isinstance(result, Drawn) == (fault == "interrupt")
    assert distance(probed.draw(amdm).latent, first) == 0


def test_models_that_are_unloaded_meanwhile_draw_to_the_end(probed: Probed) -> None:
    """On connections of their own: the picture's waits for it."""
    amdm = settings(across("xl-alpha"), eta=0, steps=20)
    alone = probed.draw(amdm, steps=20)
    drawn: list[Drawn] = []
    thread = threading.Thread(target=lambda: drawn.append(probed.draw(amdm, steps=20)))
    thread.start()
    unloaded = 0
    with requests.Session() as session:
        session.trust_env = False
        while thread.is_alive():
            unloaded += session.post(probed.server.url("/amdm/v1/unload"), json={}, timeout=60).ok
            thread.join(0.1)
    assert unloaded and distance(drawn[0].latent, alone.latent) == 0
    assert distance(probed.draw(amdm, steps=20).latent, alone.latent) == 0


def test_a_file_without_a_vae_is_refused_in_a_sentence(probed: Probed) -> None:
    from safetensors.torch import load_file, save_file

    folder = probed.server.checkpoint_folder
    weights = load_file(folder / "xl-alpha.safetensors")
    bare, described = folder / "bare-xl.safetensors", folder / "xl-alpha.yaml"
    if described.is_file():
        shutil.copy(described, bare.with_suffix(".yaml"))
    save_file({name: t for name, t in weights.items() if not name.startswith("first_stage_model.")}, bare)
    probed.server.refresh_checkpoints()
    try:
        failed = probed.fail(settings(across("bare-xl")))
        assert "bare-xl.safetensors" in failed.message and "no VAE in it" in failed.message
    finally:
        bare.unlink()
        bare.with_suffix(".yaml").unlink(missing_ok=True)
        probed.server.refresh_checkpoints()


SMALL = {"amdm_small_autoencoders": True}


@pytest.fixture
def small_files(probed: Probed) -> Iterator[list[Path]]:
    """The small autoencoders of SD1 and SDXL."""
    folder = probed.server.data / "models" / "VAE-taesd"
    files = [file for name in ("taesd", "taesdxl") for file in small_autoencoders.write(folder, name)]
    yield files
    shutil.rmtree(folder)


def test_small_autoencoders_take_the_place_of_the_models_own_by_an_option(
    probed: Probed, small_files: list[Path]
) -> None:
    amdm = settings(across("xl-alpha"), eta=0, evaluations=2)
    full = probed.draw(amdm)
    small, again = (probed.with_options(SMALL, lambda: probed.draw(amdm)) for _ in range(2))
    assert np.isfinite(small.latent).all() and distance(small.latent, full.latent) > VISIBLE
    assert distance(small.latent, again.latent) == 0 and vae_calls(small) == vae_calls(full)
    assert distance(probed.draw(amdm).latent, full.latent) == 0
    for file in small_files[1:]:
        file.unlink()
    without = probed.with_options(SMALL, lambda: probed.draw(amdm))
    assert distance(without.latent, full.latent) == 0, "an encoder without its decoder is not used"


def test_two_co_models_read_the_small_autoencoders_as_often_as_one(probed: Probed, small_files: list[Path]) -> None:
    def read(*slots: dict[str, Any]) -> list[str]:
        drawn = probed.with_options(SMALL, lambda: probed.draw(settings(*slots, eta=0, evaluations=2)))
        assert vae_calls(drawn) == [8 * len(slots)]
        return sorted(name for name in drawn.report["opened"] if name.endswith(".pth"))

    one, two = read(across("xl-alpha")), read(across("xl-alpha"), across("xl-alpha", prompt="another"))
    assert set(one) == {file.name for file in small_files} and two == one


def test_a_damaged_small_autoencoder_is_named(probed: Probed, small_files: list[Path]) -> None:
    small_files[0].write_bytes(b"nothing")
    failed = probed.with_options(SMALL, lambda: probed.fail(settings(across("xl-alpha"), eta=0)))
    assert '"taesd_encoder.pth" or "taesd_decoder.pth" cannot be read' in failed.message


def test_steps(probed: Probed) -> None:
    """The automatic number of evaluations is five."""
    drawn = probed.draw({"enabled": True, "co_models": [across("xl-alpha")]}, steps=3 * STEPS)
    assert drawn.report["co_models"] == [5]


@pytest.mark.needs("tiling")
@pytest.mark.parametrize(("main", "co"), PAIRS)
def test_tiling_is_for_every_convolution_of_its_networks(probed: Probed, main: str, co: str) -> None:
    for tiling, padding in ((True, "circular"), (False, "zeros")):
        drawn = probed.draw(settings(across(co), eta=0), checkpoint=main, tiling=tiling)
        assert drawn.report["paddings"] == [padding] and vae_calls(drawn) == [8]


@pytest.mark.parametrize(("main", "co"), PAIRS)
def test_a_comparison_draws_each_model_alone(probed: Probed, main: str, co: str) -> None:
    own = [probed.draw(checkpoint=checkpoint).picture for checkpoint in (main, co)]
    drawn = probed.draw(settings(across(co), eta=0, compare=True), checkpoint=main)
    assert len(drawn.pixels) == 4, drawn.comments
    assert all(np.array_equal(*pair) for pair in zip(drawn.pixels[2:], own, strict=True))
    assert vae_calls(drawn) == [8]


def test_a_vae_that_overflows_in_16_bits_is_called_again_by_the_host_s_options(probed: Probed, loud_vae: str) -> None:
    """Its decoder's first layer overflows, and the norms after it take the size away again."""

    def of(precision: bool, brain: bool, draw: Callable[[], Any]) -> Any:
        return probed.with_options({"auto_vae_precision": precision, "auto_vae_precision_bfloat16": brain}, draw)

    amdm = settings(across(loud_vae), eta=0)
    whole, brain = (of(True, is_brain, lambda: probed.draw(amdm)) for is_brain in (False, True))
    for drawn in (whole, brain):
        assert np.isfinite(drawn.latent).all() and vae_calls(drawn) == [8]
    assert distance(whole.latent, brain.latent) > 0
    assert "gave NaN" in of(False, False, lambda: probed.fail(amdm)).message


@pytest.fixture
def loud_vae(probed: Probed) -> Iterator[str]:
    """A checkpoint whose VAE overflows in half precision."""
    from safetensors.torch import load_file, save_file

    card = probed.server.card
    if probed.server.host.name != "a1111" or card is None or not card.native:
        pytest.skip("for A1111 in half precision, AMDM_WEBUI_CARD=native")
    folder = probed.server.checkpoint_folder
    weights = load_file(folder / "xl-alpha.safetensors")
    loud, described = folder / "loud-xl.safetensors", folder / "xl-alpha.yaml"
    first = weights["first_stage_model.decoder.conv_in.weight"]
    weights["first_stage_model.decoder.conv_in.weight"] = first * (3e4 / first.abs().max())
    if described.is_file():
        shutil.copy(described, loud.with_suffix(".yaml"))
    save_file(weights, loud)
    probed.server.refresh_checkpoints()
    yield "loud-xl"
    loud.unlink()
    loud.with_suffix(".yaml").unlink(missing_ok=True)
    probed.server.refresh_checkpoints()
