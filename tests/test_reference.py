"""The sampler wrapper against the slow implementation of the same formulas in other coordinates."""

from __future__ import annotations

import pytest
import reference
import torch
from denoisers import SAMPLERS, SIGMA_MAX, Denoiser, randn, sd_alphas_cumprod, sigmas
from hypothesis import given, settings
from hypothesis import strategies as st

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm

shares = st.floats(0, 1)


@st.composite
def runs(draw: st.DrawFn) -> dict:
    count = draw(st.integers(1, 3))
    steps = draw(st.integers(1, 7))
    correction = draw(st.sampled_from(["relative", "paper"]))
    return {
        "seed": draw(st.integers(0, 1000)),
        "shape": (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6))),
        "n": steps,
        "k": draw(st.integers(1, steps)),
        "start": draw(st.integers(0, 2)),
        "gammas": draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count)),
        "noises": draw(st.lists(st.sampled_from(["shared", "independent"]), min_size=count, max_size=count)),
        "etas": draw(
            st.lists(shares if correction == "relative" else st.floats(0, 60), min_size=count + 1, max_size=count + 1)
        ),
        "correction": correction,
    }


@given(runs(), st.sampled_from(["euler", "ddim"]))
def test_amdm_around_euler_and_ddim_is_the_reference(run: dict, name: str) -> None:
    """DDIM's latents are the reference's own, Euler's are those times a level's scale."""
    sampler, seed, shape = SAMPLERS[name], run["seed"], run["shape"]
    grid = sampler.grid(run["n"], torch.float64)
    levels = grid["sigmas"].tolist() if name == "euler" else sigmas_of(grid["timesteps"])
    start, end = ((1 + level**2) ** 0.5 if name == "ddim" else 1.0 for level in (levels[0], levels[-1]))
    models = [Denoiser(seed + index) for index in range(len(run["etas"]))]
    x = levels[0] * randn(shape, seed)
    first, co_models = [x], []
    for slot, (gamma, noise) in enumerate(zip(run["gammas"], run["noises"]), 1):
        seeds = [seed + 100 * slot + n for n in range(shape[0])]
        own = [torch.randn(shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
        first.append(x if noise == "shared" else levels[0] * torch.stack(own).double())
        co_models.append(CoRun(models[slot], gamma, run["etas"][slot], noise, seeds))
    sample = amdm(
        sampler.func, co_models, steps=run["k"], eta=run["etas"][0], start=run["start"], correction=run["correction"]
    )
    expected = reference.amdm_euler(
        models, first, levels, run["k"], run["gammas"], run["etas"], run["start"], run["correction"]
    )
    got = end * sample(sampler.model(models[0]), x / start, **grid, disable=True)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def sigmas_of(timesteps: torch.Tensor) -> list[float]:
    """The noise-to-signal ratios of DDIM's steps, from the last timestep down to the first."""
    kept = sd_alphas_cumprod()[timesteps.flip(0)]
    return ((1 - kept) / kept).sqrt().tolist()


@settings(max_examples=15)
@given(runs())
def test_a_float32_run_stays_near_the_reference(run: dict) -> None:
    shape, levels = (run["shape"][0], 4, 8, 8), sigmas(run["n"], torch.float64)
    models = [Denoiser(run["seed"] + index) for index in range(len(run["etas"]))]
    x = SIGMA_MAX * randn(shape, run["seed"])
    etas = [min(eta, 1.0) for eta in run["etas"]]
    co_models = [CoRun(model, gamma, eta) for model, gamma, eta in zip(models[1:], run["gammas"], etas[1:])]
    expected = reference.amdm_euler(models, [x] * len(models), levels.tolist(), run["k"], run["gammas"], etas)
    sample = amdm(k_diffusion.sampling.sample_euler, co_models, steps=run["k"], eta=etas[0])
    got = sample(models[0], x.float(), sigmas=levels.float(), disable=True)
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-3)


def test_the_reference_with_one_model_is_eulers_sampler() -> None:
    """The reference is checked too: with gamma 0 and eta 0 it must be the sampler alone."""
    model, x, levels = Denoiser(3), SIGMA_MAX * randn((2, 4, 5, 3), 3), sigmas(6, torch.float64)
    alone = k_diffusion.sampling.sample_euler(model, x, levels, disable=True)
    mixed = reference.amdm_euler([model, Denoiser(4)], [x, x], levels.tolist(), 4, [0.0], [0.0, 0.0])
    torch.testing.assert_close(mixed, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("t", [0.2, 0.5])
def test_the_references_slerp_turns_by_the_share_of_the_angle(t: float) -> None:
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    angle = torch.tensor(t * torch.pi / 2).double()
    torch.testing.assert_close(reference.slerp(a, b, t), torch.stack([angle.cos(), angle.sin()]))
