"""AMDM beside and on flow models: the same mathematics in other coordinates, finite from pure noise on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from denoisers import SAMPLERS, SIGMA_MAX, Denoiser, Sampler, randn
from torch import Tensor, nn

from lib_amdm import CoRun, amdm
from lib_amdm.core.levels import as_exploding, as_flow, euler_step, flow, posterior_mean

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
