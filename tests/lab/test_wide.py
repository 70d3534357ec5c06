"""A checkpoint with another latent space: its channels, scale and offset are its file's, and it shares no latents."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch

from amdm_lab.bundled import CLIP_FOLDER, WEIGHTS, WIDE_OF
from amdm_lab.judges.scenes import Judge
from amdm_lab.shapes import rows
from amdm_lab.shapes.rows import Ordered, Studio
from amdm_lab.shapes.rules import redrawn
from amdm_lab.shapes.scores import shares
from amdm_lab.studio.checkpoint_file import CheckpointFile
from amdm_lab.studio.host import Job, Standalone
from amdm_lab.training import ldm_format, networks, train, widening
from amdm_lab.world.data import drawings, drawn_scenes
from lib_amdm.families import Family, unet_family
from lib_amdm.settings import Settings

CHANNELS = 16
SCALES = {"narrow": 0.7, "wide": 0.4}
OFFSET = 1.5


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    """Random checkpoints with latents of 4 and of 16 channels, and 16 as a flow model."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    text = networks.new_text_encoder()
    text.config.save_pretrained(folder / "clip")
    for name, channels, params in (
        ("narrow", 4, {}),
        ("wide", CHANNELS, {"shift_factor": OFFSET}),
        ("wide-flow", CHANNELS, {"parameterization": "flow"}),
    ):
        unet, vae = networks.new_unet(channels), networks.new_vae(channels)
        file = folder / f"{name}.safetensors"
        ldm_format.write_checkpoint(file, unet, vae, text, SCALES.get(name, 1.0), "clip", params)
    return Standalone(folder)


def job(checkpoint: str, **changed: Any) -> Job:
    return replace(Job(checkpoint, ["a cross", "a circle"], [1, 2], steps=3, width=64, height=64), **changed)


def with_co_model(name: str) -> Settings:
    return Settings.from_dict({"enabled": True, "co_models": [{"checkpoint": name}]})


@pytest.mark.parametrize("name", ["wide", "wide-flow"])
def test_latents_have_the_channels_of_their_checkpoint(host: Standalone, name: str) -> None:
    drawn = host.generate(job(name))
    assert drawn.latents.shape == (2, CHANNELS, 8, 8) and drawn.latents.isfinite().all()
    assert drawn.pictures.shape == (2, 64, 64, 3)
    assert host.generate(job("narrow")).latents.shape == (2, 4, 8, 8)


def test_a_picture_of_a_batch_is_the_picture_alone(host: Standalone) -> None:
    together = host.generate(job("wide")).latents
    alone = host.generate(job("wide", prompts=["a circle"], seeds=[2])).latents
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=1e-4 * together.abs().max().item())


def test_a_family_with_its_own_latents_fits_no_other(host: Standalone) -> None:
    narrow, wide = host.checkpoint_family("narrow"), host.checkpoint_family("wide")
    assert narrow == Family("SD1")
    assert wide is not None and str(wide) == "SD1 with 16 latent channels" and not wide.inputs
    assert not wide.fits(narrow) and not narrow.fits(wide) and not wide.runs_alone
    assert wide.fits(wide)
    assert not wide.fits(unet_family("SD1", 8, outputs=8))


def test_a_latent_is_moved_and_scaled_as_the_yaml_says(host: Standalone) -> None:
    autoencoder = host.autoencoder("wide")
    pictures = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        raw = autoencoder.vae.encode(pictures * 2 - 1).latent_dist.mean
        decoded = autoencoder.vae.decode(raw).sample / 2 + 0.5
    latent = autoencoder.encode(pictures)
    torch.testing.assert_close(latent, (raw - OFFSET) * SCALES["wide"])
    torch.testing.assert_close(autoencoder.decode(latent, clamp=False), decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(autoencoder.decode(latent), decoded.clamp(0, 1), rtol=0, atol=1e-5)


def test_unclamped_pictures_keep_what_lies_beyond_the_range(host: Standalone) -> None:
    latents = 100 * torch.randn(1, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(1))
    pictures = host.autoencoder("wide").decode(latents, clamp=False)
    assert pictures.min() < 0 or pictures.max() > 1


@pytest.mark.parametrize(("main", "co"), [("narrow", "wide"), ("wide", "narrow"), ("narrow", "wide-flow")])
def test_a_co_model_with_other_latents_is_run_through_pixels(host: Standalone, main: str, co: str) -> None:
    alone = host.generate(job(main)).latents
    settings = with_co_model(co)
    mixed = host.generate(job(main), settings)
    assert mixed.co_evaluations == [2] and mixed.evaluations == 3
    assert mixed.latents.isfinite().all() and (mixed.latents - alone).abs().max() > 1e-3
    assert torch.equal(host.generate(job(main), settings).latents, mixed.latents)
    single = host.generate(job(main, prompts=["a circle"], seeds=[2]), settings).latents
    torch.testing.assert_close(mixed.latents[1:], single, rtol=0, atol=1e-4 * single.abs().max().item())
    (slot,) = settings.co_models
    silent = replace(settings, co_models=(replace(slot, gamma=0.0),))
    assert torch.equal(host.generate(job(main), silent).latents, alone)


def test_its_pictures_may_have_another_size(host: Standalone) -> None:
    (slot,) = with_co_model("wide").co_models
    sizes = [replace(with_co_model("wide"), co_models=(replace(slot, size=size),)) for size in ("auto", 1.0, 2.0)]
    auto, same, double = (host.generate(job("narrow"), settings).latents for settings in sizes)
    assert torch.equal(auto, same) and not torch.equal(double, same)


def test_models_with_the_same_latents_are_mixed(host: Standalone) -> None:
    mixed = host.generate(job("wide"), with_co_model("wide-flow"))
    assert mixed.co_evaluations[0] > 0 and mixed.latents.isfinite().all()
    assert (mixed.latents - host.generate(job("wide")).latents).abs().max() > 1e-3


def test_the_benchmark_decodes_with_the_checkpoints_own_autoencoder(host: Standalone) -> None:
    studio = Studio(host, steps=2)
    method, scenes = Ordered("wide", words=lambda name, scene: "a cross"), drawn_scenes(2, np.random.default_rng(1))
    drawn = method(studio, scenes, [1, 2])
    assert drawn.latents.shape[1] == CHANNELS
    expected = host.autoencoder("wide").decode(drawn.latents) * 2 - 1
    torch.testing.assert_close(studio.pictures(drawn), expected)


@pytest.mark.parametrize("is_finished", [True, False])
@pytest.mark.parametrize(("first", "then"), [("narrow", "wide"), ("wide", "narrow")])
def test_a_picture_is_gone_on_with_in_the_other_latents(
    host: Standalone, monkeypatch: pytest.MonkeyPatch, first: str, then: str, is_finished: bool
) -> None:
    monkeypatch.setattr(rows, "words", lambda name, scene: "a cross")
    studio, scenes = Studio(host, steps=4), drawn_scenes(2, np.random.default_rng(1))
    drawn = redrawn(studio, scenes, [1, 2], first, then, 0.5, is_finished)
    assert drawn.checkpoint == then and drawn.evaluations == (4 if is_finished else 2) and drawn.co_evaluations == 2
    assert drawn.latents.shape == host.autoencoder(then).encode(torch.rand(2, 3, 128, 128)).shape
    assert drawn.latents.isfinite().all()
    again = redrawn(studio, scenes[1:], [2], first, then, 0.5, is_finished)
    torch.testing.assert_close(drawn.latents[1:], again.latents, rtol=0, atol=1e-4 * drawn.latents.abs().max().item())


def bundled(name: str) -> CheckpointFile:
    return CheckpointFile(WEIGHTS / f"{name}.safetensors", name)


def test_networks_with_more_channels_begin_as_good_as_those_they_are_made_of() -> None:
    torch.manual_seed(3)  # as the training begins: the new channels' first weights are random
    old, _ = bundled("shapes").autoencoder(torch.float32)
    new = widening.wide_vae(old, CHANNELS)
    pictures = drawings(4, np.random.default_rng(1))[1]
    with torch.no_grad():
        losses = [(vae.decode(vae.encode(pictures).latent_dist.mean).sample - pictures).square() for vae in (old, new)]
        latents = new.encode(pictures).latent_dist.mean
    assert losses[1].mean() < 1.2 * losses[0].mean()
    assert latents.shape[1] == CHANNELS and (latents.mean() - widening.OFFSET).abs() < 0.2
    assert latents.std((0, 2, 3)).min() > 0.1, "no channel is empty"


def test_a_wide_unet_predicts_the_turned_noise() -> None:
    unet = bundled("colours").unet(torch.float32)
    wide = widening.wide_unet(unet, CHANNELS)
    turn = widening.rotation(CHANNELS)
    x, text = torch.randn(2, CHANNELS, 16, 16), torch.randn(2, 77, networks.CONTEXT)
    old = torch.einsum("nc,bnhw->bchw", turn, x)[:, :4]
    with torch.no_grad():
        expected, predicted = (each(latent, 300, text).sample for each, latent in ((unet, old), (wide, x)))
    back = torch.einsum("nc,bnhw->bchw", turn, predicted)
    torch.testing.assert_close(back[:, :4], expected, rtol=0, atol=1e-4)
    assert back[:, 4:].abs().max() < 1e-4


def test_a_training_leaves_an_autoencoder_and_two_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weights, folder = tmp_path / "weights", tmp_path / "training"
    shutil.copytree(WEIGHTS / CLIP_FOLDER, weights / CLIP_FOLDER)
    for file in ("shapes.safetensors", "shapes.yaml", "colours.safetensors", "colours.yaml"):
        shutil.copyfile(WEIGHTS / file, weights / file)
    for name, value in {"WEIGHTS": weights, "WIDE_STOCK": 4, "UNET_BATCH": 2, "VAE_BATCH": 1}.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "WIDE_STEPS", (1, 1))
    for name in ("WIDE_VAE_STEPS", "WIDE_FLOW_STEPS"):
        monkeypatch.setattr(train, name, 1)
    for part in ("vae16", *WIDE_OF):
        train.PARTS[part](folder)
    v, flow = (
        CheckpointFile(file, file.name)
        for file in (weights / "colours16.safetensors", folder / "flow" / "colours16-flow.safetensors")
    )
    assert flow.is_flow and not v.is_flow and v.predicts_v
    assert flow.offset == v.offset == pytest.approx(widening.OFFSET, abs=0.3)
    (vae, scale), (again, same) = (file.autoencoder(torch.float32) for file in (v, flow))
    assert scale == same
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in vae.state_dict().items())
    assert v.unet(torch.float32).config.in_channels == CHANNELS
    notes = json.loads((weights / "training.json").read_text())
    assert {name: notes[name]["steps"] for name in notes} == {"vae16": 1, "colours16": 2}


BUNDLED = pytest.mark.skipif(not (WEIGHTS / "colours16.safetensors").is_file(), reason="it is not bundled")


@BUNDLED
def test_the_bundled_one_is_small_and_draws_the_colours() -> None:
    """By chance it would be 0.10 of the colours."""
    assert (WEIGHTS / "colours16.safetensors").stat().st_size <= 10_000_000
    scenes = drawn_scenes(8, np.random.default_rng(1))
    studio = Studio(Standalone(WEIGHTS), steps=8)
    drawn = Ordered("colours16")(studio, scenes, range(8))
    assert shares(scenes, Judge.load()(studio.pictures(drawn)))["colour"].value > 0.8


@BUNDLED
def test_its_autoencoder_is_nearly_as_good_as_the_other_and_has_another_latent() -> None:
    host, pictures = Standalone(WEIGHTS), drawings(8, np.random.default_rng(2))[1] / 2 + 0.5
    wide, narrow = (host.autoencoder(name) for name in ("colours16", "colours"))
    losses = [(each.decode(each.encode(pictures)) - pictures).square().mean() for each in (wide, narrow)]
    assert losses[0] < 1.2 * losses[1]
    latents = wide.encode(pictures)
    assert latents.shape[1] == CHANNELS
    assert latents.mean().abs() < 0.1 and (latents.std() - 1).abs() < 0.1
