"""The cost of AMDM: evaluations, files opened, texts encoded, models kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import checkpoints
from .hosts import ALL_SAMPLERS
from .probed import STEPS, Drawn, Probed, distance, settings, slot
from .webui_server import WebUI

# chooses its steps by what the models say
OWN_COUNT = {"DPM adaptive"}


@pytest.fixture(autouse=True)
def empty_pool(probed: Probed) -> Iterator[None]:
    """Every test starts and ends with no co-model loaded."""
    probed.unload()
    yield
    probed.unload()


def opened(probed: Probed, *names: str) -> list[str]:
    """The record of opened files when these checkpoints are loaded."""
    return sorted(f"{name}.safetensors" for name in names for _ in range(probed.server.host.opens))


@pytest.mark.parametrize("sampler", ALL_SAMPLERS)
def test_the_samplers_own_evaluations_and_k_of_each_co_model(probed: Probed, sampler: str) -> None:
    alone = probed.draw(sampler_name=sampler).report
    for told, count in (({"steps": 2}, 2), ({"steps": STEPS - 1, "evaluations": 3}, 3)):
        report = probed.draw(settings(slot("beta"), slot("gamma"), **told), sampler_name=sampler).report
        assert report["unet"]["main"] == report["denoiser"]
        if sampler in OWN_COUNT:
            assert all(1 <= each <= count for each in report["co_models"])
        else:
            assert report["co_models"] == [count, count]
            assert report["denoiser"] == alone["denoiser"]


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DDIM"])
def test_k_beyond_the_last_step_is_all_steps(probed: Probed, sampler: str) -> None:
    alone = probed.draw(sampler_name=sampler).report["denoiser"]
    report = probed.draw(settings(steps=150), sampler_name=sampler).report
    assert report["co_models"] == [STEPS]
    assert report["denoiser"] == alone


def test_a_slot_without_weight_is_not_evaluated(probed: Probed) -> None:
    slots = (slot("beta", gamma=0), slot("gamma"), slot("gamma", enabled=False), {"checkpoint": "None"})
    report = probed.draw(settings(*slots)).report
    assert report["co_models"] == [2]
    assert report["opened"] == opened(probed, "gamma")


def test_the_second_picture_opens_no_file_and_encodes_no_text(probed: Probed) -> None:
    amdm = settings(slot("beta"), slot("gamma", prompt="a blue circle"))
    first, second = (probed.draw(amdm) for _ in range(2))
    assert sorted(first.report["opened"]) == opened(probed, "beta", "gamma")
    # prompt and negative prompt of each
    assert first.report["texts"]["co"] == 4
    assert second.report["opened"] == []
    assert second.report["texts"] == {"main": 0, "co": 0}
    assert distance(first.latent, second.latent) == 0


def test_main_with_a_prompt_of_its_own_encodes_it_once(probed: Probed) -> None:
    amdm = settings(slot("main", prompt="a purple pyramid"))
    probed.draw()
    first, second = (probed.draw(amdm).report for _ in range(2))
    assert first["texts"] == {"main": 1, "co": 0}
    assert second["texts"] == {"main": 0, "co": 0}
    assert first["opened"] == second["opened"] == []


def test_another_prompt_is_encoded_again(probed: Probed) -> None:
    probed.draw(settings())
    assert probed.draw(settings(), prompt="a blue circle").report["texts"]["co"] == 1
    assert probed.draw(settings(slot(prompt="green"))).report["texts"]["co"] == 1


def test_one_checkpoint_in_two_slots_is_loaded_once(probed: Probed) -> None:
    report = probed.draw(settings(slot(), slot(prompt="a blue circle"))).report
    assert report["opened"] == opened(probed, "beta")
    assert report["co_models"] == [4]
    assert len(probed.models()) == 1


def test_the_pool_keeps_as_many_as_the_option_says(probed: Probed) -> None:
    def draw() -> list[str]:
        probed.draw(settings(slot("beta"), slot("gamma"), slot("vpred")))
        return probed.models()

    assert [name.split(".")[0] for name in draw()] == ["gamma", "vpred"]
    assert probed.with_options({"amdm_pool_limit": 1}, draw) == ["vpred.safetensors"]
    assert probed.with_options({"amdm_pool_limit": 0}, draw) == []
    assert len(probed.with_options({"amdm_pool_limit": 5}, draw)) == 3


def test_unload_and_the_listing(probed: Probed) -> None:
    probed.draw(settings(slot("beta"), slot("gamma")))
    told = probed.server.call("/amdm/v1/models")
    assert set(told["checkpoints"]) == {entry["title"] for entry in probed.server.call("/sdapi/v1/sd-models")}
    assert probed.models() == ["beta.safetensors", "gamma.safetensors"]
    sizes = [entry["bytes"] for entry in told["loaded"]]
    assert min(sizes) > 1e6
    assert probed.unload() == {"unloaded": 2, "bytes": sum(sizes)}
    assert probed.models() == []
    assert probed.draw(settings()).report["opened"] == opened(probed, "beta")


def test_a_co_model_has_no_vae_and_shares_what_it_can(probed: Probed, checkpoint_dir: Path) -> None:
    probed.draw(settings(slot("beta"), slot(checkpoints.PICKLED + ".ckpt")))
    first, second = (entry["bytes"] for entry in probed.server.call("/amdm/v1/models")["loaded"])
    # the file holds 16-bit numbers and a VAE, the server runs with 32 bits
    assert first < 2 * (checkpoint_dir / "beta.safetensors").stat().st_size
    # the same weights in another file: of its own it has only buffers
    assert second < first / 10


@pytest.fixture
def changing(probed: Probed) -> Iterator[str]:
    """A checkpoint of its own that a test may overwrite."""
    folder = probed.server.checkpoint_folder
    copy_checkpoint(probed.server, "beta", "changing")
    probed.server.refresh_checkpoints()
    yield "changing"
    for file in folder.glob("changing.*"):
        file.unlink()
    probed.server.refresh_checkpoints()


def copy_checkpoint(server: WebUI, source: str, target: str) -> None:
    for suffix in (".yaml", ".safetensors"):
        shutil.copyfile(server.checkpoint_folder / (source + suffix), server.checkpoint_folder / (target + suffix))


def test_a_file_that_changed_is_read_again(probed: Probed, changing: str) -> None:
    def draw() -> Drawn:
        return probed.draw(settings(slot(changing)))

    first = draw()
    assert distance(first.latent, probed.draw(settings(slot("beta"))).latent) == 0
    assert draw().report["opened"] == []
    copy_checkpoint(probed.server, "gamma", changing)
    changed = draw()
    assert changed.report["opened"] == ["changing.safetensors"]
    assert distance(changed.latent, probed.draw(settings(slot("gamma"))).latent) == 0
    assert distance(changed.latent, first.latent) > 0.01
    path = probed.server.checkpoint_folder / "changing.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert draw().report["opened"] == ["changing.safetensors"]


def test_loading_does_not_move_the_random_stream(probed: Probed) -> None:
    first, second = (probed.draw(settings(), sampler_name="Euler a").report for _ in range(2))
    assert (first["opened"], second["opened"]) == (opened(probed, "beta"), [])
    assert first["random"] == second["random"]
    assert not first["process random moved"]


def test_a_first_picture_with_hires_fix_is_the_second_one(probed: Probed) -> None:
    # between the passes the WebUI encodes the picture, with noise from the generator that loading must not move
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Lanczos", "denoising_strength": 0.7}
    first, second = (probed.draw(settings(), **hires) for _ in range(2))
    assert distance(first.latent, second.latent) == 0
