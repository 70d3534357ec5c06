"""Flow models without a WebUI: a file says so, its noise levels are its own, and samplers end where they must."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import numpy as np
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from amdm_lab.bundled import FLOW_OF, WEIGHTS
from amdm_lab.judges.scenes import Judge
from amdm_lab.shapes.rows import Ordered, Studio
from amdm_lab.shapes.scores import shares
from amdm_lab.studio import prompts, sampling
from amdm_lab.studio.checkpoint_file import CheckpointFile
from amdm_lab.studio.host import Job, Standalone, noise, sampler_names
from amdm_lab.studio.model import FlowDenoiser, StandaloneModel
from amdm_lab.training import networks, train
from amdm_lab.training.ldm_format import write_checkpoint
from amdm_lab.world.captions import caption
from amdm_lab.world.data import drawn_scenes
from lib_amdm.errors import AmdmError
from lib_amdm.settings import CoModel, Settings

ADDING_NOISE = {
    "dpm_2_ancestral",
    "dpm_adaptive",
    "dpm_fast",
    "dpmpp_2m_sde",
    "dpmpp_2s_ancestral",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler_ancestral",
}
ALLOWED = sorted({"dpm_2", "dpmpp_2m", "euler", "heun", "lms"})
STEPS, SHIFT = 6, 2.0
SIZE = (4, 8, 8)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Standalone:
    """One random UNet in two files, "eps" and "shapes-flow"."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    parts = networks.new_unet(), networks.new_vae(), networks.new_text_encoder()
    for name, params in (("eps", None), ("shapes-flow", {"parameterization": "flow", "shift": SHIFT})):
        write_checkpoint(folder / f"{name}.safetensors", *parts, 1.0, "clip", params)
    networks.text_config().save_pretrained(folder / "clip")
    return Standalone(folder)


@pytest.fixture(scope="module")
def model(host: Standalone) -> StandaloneModel:
    return host.model("shapes-flow")


def job(**changed: Any) -> Job:
    return replace(Job("shapes-flow", ["a cross"], [11], steps=STEPS, cfg_scale=3, width=64, height=64), **changed)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


class Velocity(nn.Module):
    """The exact velocity of one picture and one noise; `told` are the timesteps."""

    def __init__(self, clean: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.clean, self.noise = clean, noise
        self.told: list[Tensor] = []

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.told.append(timestep)
        return self.noise - self.clean


@given(st.lists(st.floats(1e-3, 1), min_size=1, max_size=4))
def test_the_exact_velocity_is_denoised_to_the_picture(levels: list[float]) -> None:
    t = torch.tensor(levels)
    clean, added = noise(range(len(t)), SIZE), noise(range(100, 100 + len(t)), SIZE)
    network = Velocity(clean, added)
    x = torch.lerp(clean, added, t.view(-1, 1, 1, 1))
    close(FlowDenoiser(network)(x, t), clean)
    close(network.told[0], 1000 * t, 1e-3)


def test_a_file_that_says_so_is_a_flow_model(host: Standalone, model: StandaloneModel) -> None:
    eps = host.model("eps")
    assert (model.is_flow, eps.is_flow) == (True, False)
    x, sigma = noise([3, 4], SIZE), torch.tensor([1.0, 0.3])
    cond = prompts.encode(["a cross"] * 2, model.tokenizer, model.text_encoder)
    velocity = model.unet(x, torch.tensor([1000.0, 300.0]), torch.stack(cond)).sample
    close(model.wrap(x, sigma, cond=torch.stack(cond)), x - sigma.view(-1, 1, 1, 1) * velocity)


def test_the_guided_denoiser_is_the_guided_velocity(model: StandaloneModel) -> None:
    """So that guidance does not depend on which of the two is guided."""
    x, sigma = noise([3], SIZE), torch.tensor([0.7])

    def velocity(text: str) -> Tensor:
        cond = prompts.encode([text], model.tokenizer, model.text_encoder)[0]
        return model.unet(x, 1000 * sigma, cond[None]).sample

    base = velocity("bad")
    guided = base + 3 * (velocity("a cross") - base)
    close(model.denoiser(["a cross"], ["bad"], 3)(x, sigma), x - 0.7 * guided)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("sampler", ALLOWED)
def test_levels_fall_from_1_to_0(model: StandaloneModel, sampler: str, steps: int) -> None:
    levels = sampling.noise_levels(model, sampler, "automatic", steps)
    assert len(levels) == steps + 1
    assert levels[0] == 1 and levels[-1] == 0 and (levels.diff() < 0).all()


@given(st.integers(2, 40), st.floats(0.2, 12))
def test_a_shift_multiplies_noise_to_signal(steps: int, shift: float) -> None:
    even, shifted = (FlowDenoiser(nn.Identity(), each).get_sigmas(steps)[1:-1].double() for each in (1.0, shift))
    close(even.diff(), torch.full_like(even[1:], -1 / steps), 1e-6)
    torch.testing.assert_close(shifted / (1 - shifted), shift * even / (1 - even), rtol=1e-3, atol=0)


def test_a_files_own_shift_counts(model: StandaloneModel) -> None:
    close(model.sigmas(2), torch.tensor([1, SHIFT / (1 + SHIFT), 0]))


def test_progress_follows_the_levels(model: StandaloneModel) -> None:
    levels = model.sigmas(STEPS)
    done = sampling.progress(levels.tolist())
    assert [done(level) for level in levels[:-1].tolist()] == [step / STEPS for step in range(STEPS)]


class Gaussian(nn.Module):
    """The exact denoiser of pictures from N(mean, deviation^2), whose flow ends at mean + deviation * noise."""

    mean, deviation = 0.4, 0.5

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        t = sigma.view(-1, 1, 1, 1)
        variance = ((1 - t) * self.deviation) ** 2 + t**2
        return self.mean + (1 - t) * self.deviation**2 / variance * (x - (1 - t) * self.mean)


@pytest.mark.parametrize("sampler", ALLOWED)
def test_a_sampler_ends_where_the_flow_does(model: StandaloneModel, sampler: str) -> None:
    """The more steps the nearer; in one step it is at the mean, the denoised latent of pure noise."""
    func, denoiser = sampling.find_sampler(sampler), Gaussian()
    denoiser.model = model
    start = noise([5], SIZE)

    def error(steps: int) -> float:
        levels = sampling.noise_levels(model, sampler, "automatic", steps)
        ended = sampling.sample(func, denoiser, sampling.ImageNoise([5], SIZE), levels)
        return (ended - (denoiser.mean + denoiser.deviation * start)).abs().max().item()

    assert error(400) < 0.02 and error(400) < error(40) < error(4)
    one = sampling.sample(func, denoiser, sampling.ImageNoise([5], SIZE), torch.tensor([1.0, 0.0]))
    close(one, torch.full_like(one, denoiser.mean))


def test_the_benchmark_draws_what_the_host_does(host: Standalone) -> None:
    scenes, seeds = drawn_scenes(2, np.random.default_rng(0)), [3, 4]
    studio = Studio(host, steps=3, cfg_scale=2.0)
    drawn = Ordered("shapes-flow")(studio, scenes, seeds)
    told = [caption(scene, "shapes") for scene in scenes]
    assert torch.equal(drawn.latents, host.generate(Job("shapes-flow", told, seeds, steps=3, cfg_scale=2.0)).latents)
    assert studio.pictures(drawn).shape == (2, 3, 128, 128)


def test_samplers_that_add_noise_are_refused_and_no_others(host: Standalone) -> None:
    assert ADDING_NOISE | {*ALLOWED} == {*sampler_names()}
    for sampler in sampler_names():
        if sampler in ALLOWED:
            assert host.generate(job(sampler=sampler)).latents.isfinite().all()
        else:
            drawing = partial(host.generate, job(sampler=sampler))
            assert_refused(drawing, sampler, "shapes-flow.safetensors", *ALLOWED)


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_schedules_of_other_models_are_refused(host: Standalone, schedule: str) -> None:
    assert_refused(lambda: host.generate(job(schedule=schedule)), schedule, "shapes-flow.safetensors", "automatic")
    host.generate(job(checkpoint="eps", schedule=schedule))


def assert_refused(drawn: Callable[[], Any], *words: str) -> None:
    """In one sentence."""
    with pytest.raises(AmdmError) as told:
        drawn()
    said = str(told.value)
    assert all(f'"{word}"' in said or word in said for word in words)
    assert said.endswith(".") and "\n" not in said


def test_a_shift_that_is_no_number_is_told(host: Standalone, tmp_path: Path) -> None:
    source = host.folders[0] / "shapes-flow.safetensors"
    (tmp_path / "odd.safetensors").write_bytes(source.read_bytes())
    told = yaml.safe_load(source.with_suffix(".yaml").read_text())
    told["model"]["params"]["shift"] = "much"
    (tmp_path / "odd.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(AmdmError, match=r'"odd.safetensors" has a shift unlike what "odd.yaml" describes'):
        Standalone(tmp_path).generate(job(checkpoint="odd"))


def test_a_training_leaves_a_flow_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(torch.randn(8, *networks.LATENT).half(), tmp_path / "latents.pt")
    monkeypatch.setattr(train, "UNET_BATCH", 2)
    monkeypatch.setattr(train, "FLOW_STEPS", 2)
    train.PARTS["shapes-flow"](tmp_path)
    file = CheckpointFile(tmp_path / "flow" / "shapes-flow.safetensors", "shapes-flow")
    assert file.is_flow
    bundled = CheckpointFile(WEIGHTS / "shapes.safetensors", "shapes")
    for part in ("text_encoder", "unet"):
        own, theirs = (getattr(each, part)(torch.float32).state_dict() for each in (file, bundled))
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own) == (part == "text_encoder")
    notes = json.loads((tmp_path / "flow" / "training.json").read_text())
    assert notes["shapes-flow"]["steps"] == 2 and (tmp_path / "shapes-flow.png").is_file()


@given(st.integers(0, 1000))
def test_what_a_flow_learns_from_is_on_the_way_to_the_noise(seed: int) -> None:
    torch.manual_seed(seed)
    clean = torch.randn(3, *SIZE)
    x, timesteps, velocity = train.flowing(clean)
    t = timesteps.view(-1, 1, 1, 1) / 1000
    assert ((t >= 0) & (t <= 1)).all()
    close(x - t * velocity, clean)


@pytest.mark.skipif(
    not all((WEIGHTS / f"{name}.safetensors").is_file() for name in FLOW_OF), reason="the flow models are not there"
)
@pytest.mark.parametrize(("name", "quantity"), [("shapes-flow", "shape"), ("colours-flow", "colour")])
def test_the_pair_draws_what_it_is_told(name: str, quantity: str) -> None:
    """By chance it would be 0.16 of the shapes and 0.10 of the colours."""
    scenes, seeds = drawn_scenes(8, np.random.default_rng(1)), range(8)
    studio = Studio(Standalone(WEIGHTS), steps=8)
    drawn = Ordered(name)(studio, scenes, seeds)
    assert shares(scenes, Judge.load()(studio.pictures(drawn)))[quantity].value > 0.8


@pytest.mark.parametrize(
    ("main", "co"), [("shapes-flow", "shapes-flow"), ("shapes-flow", "eps"), ("eps", "shapes-flow")]
)
def test_flow_and_eps_models_run_beside_each_other(host: Standalone, main: str, co: str) -> None:
    job = Job(f"{main}.safetensors", ["a cross"], [1], steps=4, width=64, height=64)
    settings = Settings(enabled=True, steps=3, evaluations=2, co_models=(CoModel(checkpoint=f"{co}.safetensors"),))
    alone, mixed = host.generate(job), host.generate(job, settings)
    assert mixed.co_evaluations == [2] and mixed.latents.isfinite().all()
    difference = (mixed.latents - alone.latents).abs().max()
    assert (difference < 1e-4) if main == co else (difference > 1e-3)
