"""Noise levels: each family's formulas against the textbook's, and what must hold of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoisers import randn
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lib_amdm.core.levels import (
    Level,
    as_exploding,
    euler_step,
    flow,
    posterior_mean,
    prediction_change,
    preserving_scale,
    variance_exploding,
    variance_preserving,
)

SHAPE = (2, 4, 3, 5)
seeds = st.integers(0, 2**31)
shares = st.floats(0.01, 0.99)


@st.composite
def strides(draw: st.DrawFn) -> tuple[Level, Level]:
    """A level and a lower one of the same family; flow begins at pure noise too."""
    family = draw(st.sampled_from(["exploding", "preserving", "flow"]))
    if family == "exploding":
        sigma = draw(st.floats(0.03, 80))
        return variance_exploding(sigma), variance_exploding(draw(shares) * sigma)
    if family == "preserving":
        kept = draw(st.floats(1e-4, 0.99))
        return variance_preserving(kept), variance_preserving(kept + (1 - kept) * draw(shares))
    t = draw(st.just(1.0) | st.floats(0.02, 0.999))
    return flow(t), flow(draw(shares) * t)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    return randn(SHAPE, seed), randn(SHAPE, seed + 1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@given(seeds, strides())
def test_eulers_step_keeps_the_noise_and_the_clean_latent(seed: int, stride: tuple[Level, Level]) -> None:
    """A latent made of x0 and noise, denoised rightly, comes out as the same two at the next level."""
    x0, noise = pair(seed)
    level, level_next = stride
    x = level.alpha * x0 + level.sigma * noise
    close(euler_step(x0, x, level, level_next), level_next.alpha * x0 + level_next.sigma * noise)


@given(seeds, strides())
def test_the_posterior_mean_is_bayes_rule_for_two_gaussians(seed: int, stride: tuple[Level, Level]) -> None:
    """x_next ~ N(a' D, s'^2) seen through x = (a/a') x_next + noise of variance s^2 - (a/a')^2 s'^2."""
    denoised, x = pair(seed)
    level, level_next = stride
    kept = level.alpha / level_next.alpha
    rest = level.sigma**2 - kept**2 * level_next.sigma**2
    precision = 1 / level_next.sigma**2 + kept**2 / rest
    mean = (level_next.alpha * denoised / level_next.sigma**2 + kept * x / rest) / precision
    close(posterior_mean(denoised, x, level, level_next), mean, 1e-6)


@given(seeds, strides())
def test_the_changed_prediction_ends_where_it_is_wanted(seed: int, stride: tuple[Level, Level]) -> None:
    denoised, x = pair(seed)
    level, level_next = stride
    wanted = randn(SHAPE, seed + 2)
    moved = wanted - euler_step(denoised, x, level, level_next)
    changed = denoised + prediction_change(moved, level, level_next)
    close(euler_step(changed, x, level, level_next), wanted, 1e-7)


@given(seeds, st.floats(0.03, 80), shares)
def test_families_agree_about_latents_that_differ_by_a_factor(seed: int, sigma: float, share: float) -> None:
    """A variance-exploding latent over hypot(1, sigma) is a variance-preserving one, over 1 + sigma one of flow."""
    denoised, x = pair(seed)
    exploding = variance_exploding(sigma), variance_exploding(share * sigma)
    preserving = [variance_preserving(1 / (1 + level.sigma**2)) for level in exploding]
    flowing = [flow(level.sigma / (1 + level.sigma)) for level in exploding]
    for step in (euler_step, posterior_mean):
        expected = step(denoised, x, *exploding)
        for other in (preserving, flowing):
            here, there = (new.alpha for new in other)
            close(step(denoised, x * here, *other), expected * there, 1e-6)
        assert [level.ratio for level in preserving] == pytest.approx([level.ratio for level in exploding])
        assert [level.ratio for level in flowing] == pytest.approx([level.ratio for level in exploding])


def test_literals() -> None:
    denoised, x = torch.tensor([1.0]), torch.tensor([5.0])
    high, low = variance_exploding(8.0), variance_exploding(4.0)
    # half of the way's noise is left: 1 + (1/2) (5 - 1); of its square a quarter
    assert euler_step(denoised, x, high, low).item() == 3.0
    assert posterior_mean(denoised, x, high, low).item() == 2.0
    assert variance_preserving(0.64) == Level(0.8, 0.6)
    assert flow(0.25) == Level(0.75, 0.25)
    assert (flow(1.0).ratio, flow(1.0).scale, flow(0.5).scale) == (math.inf, 1.0, math.sqrt(0.5))


@pytest.mark.parametrize("step", [euler_step, posterior_mean])
@pytest.mark.parametrize("first", [variance_exploding(14.6), variance_preserving(0.005), flow(1.0)])
def test_a_step_to_no_noise_is_the_denoised_latent(step: Callable[..., Any], first: Level) -> None:
    denoised, x = pair(1)
    assert torch.equal(step(denoised, x, first, Level(1.0, 0.0)), denoised)


@pytest.mark.parametrize("first", [flow(1.0), variance_preserving(0.0)])
def test_from_pure_noise_everything_is_finite(first: Level) -> None:
    denoised, x = (latent.float() for latent in pair(1))
    level_next = flow(0.9)
    for found in (
        euler_step(denoised, x, first, level_next),
        posterior_mean(denoised, x, first, level_next),
        prediction_change(x, first, level_next),
    ):
        assert found.isfinite().all()


@given(seeds, st.floats(1e-4, 0.9999))
def test_a_latent_is_of_either_form_by_one_factor(seed: int, kept: float) -> None:
    """Of one picture and one noise: a timestep sampler's latent, times the factor, is k-diffusion's."""
    x0, noise = pair(seed)
    preserving = variance_preserving(kept)
    exploding = as_exploding(preserving)
    scale = preserving_scale(torch.tensor(exploding.sigma, dtype=torch.float64))
    held = preserving.alpha * x0 + preserving.sigma * noise
    close(held * scale, x0 + exploding.sigma * noise, 1e-7)
    assert preserving_scale(torch.tensor([0.0, 0.75])).tolist() == [1.0, 1.25]


@pytest.mark.parametrize("t", [1.0, 1.01, 2.5])
def test_beyond_pure_noise_there_is_more_noise_and_nothing_else(t: float) -> None:
    assert flow(t) == Level(0.0, t) and math.isinf(flow(t).ratio)
    x0, noise = pair(1)
    close(euler_step(x0, t * noise, flow(t), flow(1.0)), noise)
