"""AMDM against the same formulas in other coordinates, slice by slice; of flow models, finite from pure noise on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import reference
import torch
from denoisers import SAMPLERS, SIGMA_MAX, Denoiser, Sampler, randn, sd_alphas_cumprod, sigmas
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm
from lib_amdm.core.levels import as_exploding, as_flow, euler_step, flow, posterior_mean

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


FLOW_SAMPLERS = [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "heun", "lms", "dpm_2", "dpmpp_2m")]
FROM_NOISE = (1.0, 0.93, 0.8, 0.61, 0.4, 0.15, 0.0)
"""Times of a flow model, as a shifted schedule has them."""
LATER = FROM_NOISE[1:]


class FlowDenoiser(nn.Module):
    """`Denoiser` of a seed in flow matching's coordinates, and what it was shown."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.exploding = Denoiser(seed)
        self.times: list[float] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.times.append(float(sigma[0]))
        alpha = (1 - sigma).clamp_min(1e-3)
        return self.exploding(x / alpha.view(-1, 1, 1, 1), sigma / alpha)


def flowing(denoiser: nn.Module, **settings: Any) -> CoRun:
    return CoRun(denoiser, form=as_flow, **settings)


def sampled(sampler: Sampler, model: nn.Module, times: Sequence[float], x: Tensor) -> Tensor:
    return sampler.func(model, x, torch.tensor(times, dtype=x.dtype), disable=True)


def mixed(sampler: Sampler, main: nn.Module, co: CoRun, times: Sequence[float], x: Tensor, **options: Any) -> Tensor:
    func = amdm(sampler.func, [co], level_of=flow, **options)
    return func(main, x, torch.tensor(times, dtype=x.dtype), disable=True)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("correction", ["relative", "paper", "norm", "own"])
@pytest.mark.parametrize("evaluations", [0, 2])
def test_a_flow_run_is_the_exploding_run_in_other_coordinates(correction: str, evaluations: int) -> None:
    x = randn((2, 4, 6, 5), 1).double()
    settings: dict[str, Any] = {"gamma": 0.4, "eta": 0.3, "noise": "independent", "seed": [5, 6]}
    options: dict[str, Any] = {"steps": 4, "eta": 0.2, "correction": correction, "evaluations": evaluations}
    euler = SAMPLERS["euler"]
    ours = mixed(euler, FlowDenoiser(0), flowing(FlowDenoiser(1), **settings), LATER, x, **options)
    sigmas = torch.tensor([t / (1 - t) for t in LATER], dtype=x.dtype)
    exploding = amdm(euler.func, [CoRun(Denoiser(1), **settings)], **options)
    close(ours, exploding(Denoiser(0), x / (1 - LATER[0]), sigmas, disable=True))


@pytest.mark.parametrize("eta", [0.0, 0.2, 1.0])
def test_from_pure_noise_on_it_is_the_reference_slice_by_slice(eta: float) -> None:
    x = randn((2, 4, 6, 5), 1).double()
    main, co = FlowDenoiser(0), FlowDenoiser(1)
    ours = mixed(SAMPLERS["euler"], main, flowing(co, gamma=1.0, eta=eta), FROM_NOISE, x, steps=3, eta=eta)
    latents = [x, x]
    for k, (t, t_next) in enumerate(pairwise(FROM_NOISE)):
        ds = [model(latent, latent.new_full((2,), t)) for model, latent in zip((main, co), latents)]
        ys = [d + t_next / t * (latent - d) for d, latent in zip(ds, latents)]
        if k >= 3:
            latents = ys
            continue
        mus = [
            (1 - t_next) * d + (1 - t) / (1 - t_next) * (t_next / t) ** 2 * (latent - (1 - t) * d)
            for d, latent in zip(ds, latents)
        ]
        latents = [ys[1] - eta * (ys[1] - mu) for mu in mus]
    close(ours, latents[0])


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
@pytest.mark.parametrize("times", [FROM_NOISE, LATER], ids=["from noise", "later"])
def test_a_co_model_that_is_the_main_model_changes_nothing(sampler: Sampler, times: Sequence[float]) -> None:
    x = randn((2, 4, 6, 5), 1)
    alone = sampled(sampler, FlowDenoiser(0), times, x)
    assert alone.isfinite().all()
    close(mixed(sampler, FlowDenoiser(0), flowing(FlowDenoiser(0)), times, x, steps=4, evaluations=2), alone, 1e-4)


@pytest.mark.parametrize("name", ["euler", "lms", "dpmpp_2m"])
def test_a_whole_share_at_every_step_is_the_co_models_own_sampler(name: str) -> None:
    x = randn((2, 4, 6, 5), 1).double()
    ours = mixed(SAMPLERS[name], FlowDenoiser(0), flowing(FlowDenoiser(1), gamma=1.0), FROM_NOISE, x, steps=9)
    close(ours, sampled(SAMPLERS[name], FlowDenoiser(1), FROM_NOISE, x))


@pytest.mark.parametrize("first", [1.02, 1.5])
@pytest.mark.parametrize("name", ["euler", "heun", "lms"])
def test_a_schedule_may_begin_above_pure_noise(name: str, first: float) -> None:
    """Its first step takes noise away and knows no picture; from then on it is like any other."""
    sampler, x, times = SAMPLERS[name], first * randn((2, 4, 6, 5), 1).double(), (first, *FROM_NOISE)
    alone = sampled(sampler, FlowDenoiser(0), times, x)
    same = mixed(sampler, FlowDenoiser(0), flowing(FlowDenoiser(0)), times, x, steps=4)
    close(same, alone, 1e-6)
    other, heard = FlowDenoiser(1), []
    drawn = mixed(
        sampler, FlowDenoiser(0), flowing(other), times, x, steps=4, on_mixed=lambda *said: heard.append(said)
    )
    assert drawn.isfinite().all() and (drawn - alone).abs().max() > 1e-3
    assert other.times == pytest.approx(FROM_NOISE[:3]) and heard[-1] == (4, 4)


def test_a_model_of_the_other_kind_is_the_same_model_where_it_knows_the_level() -> None:
    x = randn((2, 4, 6, 5), 1).double()
    euler, flow_main = SAMPLERS["euler"], FlowDenoiser(0)
    alone = sampled(euler, flow_main, LATER, x)
    eps = CoRun(Denoiser(0), gamma=0.7, sigma_max=SIGMA_MAX)
    close(mixed(euler, flow_main, eps, LATER, x, steps=4, eta=0.0), alone)
    sigmas = torch.tensor([t / (1 - t) for t in LATER], dtype=x.dtype)
    beside = amdm(euler.func, [flowing(FlowDenoiser(0), gamma=0.7)], steps=4)
    close(beside(Denoiser(0), x / (1 - LATER[0]), sigmas, disable=True), alone)


def test_an_eps_model_beside_pure_noise_is_shown_its_own_highest_level() -> None:
    x, co = randn((2, 4, 6, 5), 1).double(), Denoiser(1)
    mixed(SAMPLERS["euler"], FlowDenoiser(0), CoRun(co, sigma_max=SIGMA_MAX), FROM_NOISE, x, steps=1)
    assert co.levels[0].tolist() == pytest.approx([SIGMA_MAX] * 2)
    close(co.latents[0], SIGMA_MAX * x)


def test_an_eps_model_beside_pure_noise_must_say_its_highest_level() -> None:
    with pytest.raises(ValueError, match="needs its sigma_max"):
        mixed(SAMPLERS["euler"], FlowDenoiser(0), CoRun(Denoiser(1)), FROM_NOISE, randn((1, 4, 6, 5), 1), steps=1)


@pytest.mark.parametrize("form", [as_exploding, as_flow])
def test_levels_keep_their_noise_to_signal_in_either_form(form: Callable) -> None:
    for t in LATER:
        assert form(flow(t)).ratio == pytest.approx(flow(t).ratio)
    assert as_flow(flow(1.0)) == flow(1.0)
    assert math.isinf(as_exploding(flow(1.0)).sigma)


def test_a_main_models_own_nan_is_not_laid_to_a_co_model() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return x * math.nan

    blamed: list[str] = []
    co = flowing(FlowDenoiser(1), on_nan=lambda: blamed.append("co"))
    mixed(SAMPLERS["euler"], Broken(), co, FROM_NOISE, randn((1, 4, 6, 5), 1), steps=3)
    mixed(
        SAMPLERS["euler"],
        FlowDenoiser(0),
        flowing(Broken(), on_nan=lambda: blamed.append("it")),
        FROM_NOISE,
        randn((1, 4, 6, 5), 1),
        steps=3,
    )
    assert blamed == ["it"] * 3


def test_the_pull_from_pure_noise_is_finite_and_has_no_noise() -> None:
    x, denoised = randn((1, 4, 6, 5), 1), randn((1, 4, 6, 5), 2)
    close(posterior_mean(denoised, x, flow(1.0), flow(0.9)), 0.1 * denoised, 1e-6)
    close(euler_step(denoised, x, flow(1.0), flow(0.9)), 0.1 * denoised + 0.9 * x, 1e-6)
