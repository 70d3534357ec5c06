"""The arithmetic: literal values, and what must hold for every latent."""

from __future__ import annotations

import math

import pytest
import torch
from denoisers import randn
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from lib_amdm.aggregation import aggregate, correct, euler_step, posterior_mean, slerp

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
SHAPE = (3, 4, 5, 7)

shares = st.floats(0, 1)
seeds = st.integers(0, 2**31)
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)


def latent(seed: int = 0, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    return randn(shape, seed).to(dtype)


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def norms(x: Tensor) -> Tensor:
    return x.double().flatten(1).norm(dim=1)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# slerp


@pytest.mark.parametrize(
    ("a", "b", "t", "expected"),
    [
        ([1.0, 0.0], [0.0, 1.0], 0.5, [math.sqrt(0.5), math.sqrt(0.5)]),
        ([1.0, 0.0], [0.0, 1.0], 1 / 3, [math.sqrt(0.75), 0.5]),
        ([2.0, 0.0], [0.0, 4.0], 0.5, [math.sqrt(2.0), math.sqrt(8.0)]),
        ([1.0, 0.0], [0.5, math.sqrt(0.75)], 0.5, [math.sqrt(0.75), 0.5]),
        ([1.0, 0.0], [-0.5, math.sqrt(0.75)], 0.25, [math.sqrt(0.75), 0.5]),
        ([0.0, 3.0, 0.0], [0.0, 0.0, -3.0], 2 / 3, [0.0, 1.5, -math.sqrt(6.75)]),
    ],
)
def test_slerp_turns_by_the_share_of_the_angle(a: list, b: list, t: float, expected: list) -> None:
    close(slerp(rows(a), rows(b), t), rows(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0, 0.0, 1, 1.0])
def test_slerp_ends_are_bitwise_the_inputs(t: float, dtype: torch.dtype) -> None:
    a, b = latent(1, dtype=dtype), latent(2, dtype=dtype)
    assert torch.equal(slerp(a, b, t), b if t else a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_gives_the_first_ones_dtype_and_shape(t: float, dtype: torch.dtype) -> None:
    mixed = slerp(latent(1, dtype=dtype), latent(2, dtype=torch.float32), t)
    assert mixed.dtype == dtype
    assert mixed.shape == SHAPE


@pytest.mark.parametrize("dtype", HALVES)
def test_slerp_of_half_inputs_is_computed_in_float32(dtype: torch.dtype) -> None:
    # 16384 numbers around 14: their squares' sum is far beyond float16
    a, b = (14 * randn((2, 4, 64, 64), seed).to(dtype) for seed in (1, 2))
    assert torch.equal(slerp(a, b, 0.3), slerp(a.float(), b.float(), 0.3).to(dtype))


@given(seeds, shapes, shares)
def test_slerp_keeps_the_norm_of_equal_norms(seed: int, shape: tuple[int, ...], t: float) -> None:
    a, b = latent(seed, shape), latent(seed + 1, shape)
    a, b = (x / norms(x).view(-1, *[1] * (len(shape) - 1)) for x in (a, b))
    if ((a * b).flatten(1).sum(1) < -1 + 1e-6).any():
        return  # opposite: no plane to turn in
    close(norms(slerp(a, b, t)), torch.ones(shape[0], dtype=torch.float64))


@given(seeds, shapes, shares, st.floats(1e-3, 1e3))
def test_slerp_is_scale_invariant(seed: int, shape: tuple[int, ...], t: float, scale: float) -> None:
    a, b = latent(seed, shape), latent(seed + 1, shape)
    close(slerp(scale * a, scale * b, t) / scale, slerp(a, b, t), 1e-8)


@given(seeds, shapes, shares)
def test_slerp_from_the_other_side_is_the_same(seed: int, shape: tuple[int, ...], t: float) -> None:
    a, b = latent(seed, shape), latent(seed + 1, shape)
    close(slerp(a, b, t), slerp(b, a, 1 - t), 1e-8)


def test_slerp_is_per_sample() -> None:
    a, b = latent(1), latent(2)
    # very different lengths: a normalisation over the whole batch would show
    a, b = a * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1, 1), b * torch.tensor([1.0, 1e3, 1e-3]).view(-1, 1, 1, 1)
    single = [slerp(a[n : n + 1], b[n : n + 1], 0.4) for n in range(3)]
    assert torch.equal(slerp(a, b, 0.4), torch.cat(single))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_slerp_of_parallel_latents_is_the_straight_line(t: float, dtype: torch.dtype) -> None:
    a = latent(1, dtype=dtype)
    close(slerp(a, a, t).double(), a.double(), 1e-6 if dtype in DTYPES[2:] else 1e-2)
    close(slerp(a, 3 * a, t).double(), (1 + 2 * t) * a.double(), 1e-6 if dtype in DTYPES[2:] else 3e-2)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_slerp_with_opposite_or_zero_latents_neither_breaks_nor_grows(t: float, dtype: torch.dtype) -> None:
    a, zero = latent(1, dtype=dtype), torch.zeros(SHAPE, dtype=dtype)
    for first, second in [(a, -a), (a, -2 * a), (a, zero), (zero, a), (zero, zero)]:
        mixed = slerp(first, second, t)
        assert torch.isfinite(mixed).all()
        assert (norms(mixed) <= torch.maximum(norms(first), norms(second)) * 1.01).all()


@given(st.floats(1e-12, 1e-1), shares, st.sampled_from([1.0, -1.0]))
@example(1e-4, 0.5, -1.0)
def test_slerp_near_parallel_and_near_opposite_stays_on_the_sphere_or_inside(gap: float, t: float, side: float) -> None:
    a = rows([1.0, 0.0, 0.0]).float()
    b = rows([side * math.cos(gap), math.sin(gap), 0.0]).float()
    mixed = slerp(a, b, t)
    assert torch.isfinite(mixed).all()
    assert norms(mixed) <= 1.01
    if side > 0:
        close(mixed.double(), rows([math.cos(t * gap), math.sin(t * gap), 0.0]), 1e-6)


def test_slerp_mixes_ordinary_samples_beside_degenerate_ones() -> None:
    a = rows([1.0, 0.0], [1.0, 0.0], [0.0, 0.0])
    b = rows([0.0, 1.0], [1.0, 0.0], [0.0, 2.0])
    close(slerp(a, b, 0.5), rows([math.sqrt(0.5)] * 2, [1.0, 0.0], [0.0, 1.0]))


# posterior mean and Euler's step


@given(seeds, st.floats(0.03, 15), st.floats(0.01, 0.99))
def test_posterior_mean_is_the_ddpm_posterior_mean_of_the_whole_stride(seed: int, sigma: float, share: float) -> None:
    """q(z_s | z_t, x0), whose mean is sqrt(a_s) b / (1 - a_t) x0 + sqrt(a_t / a_s) (1 - a_s) / (1 - a_t) z_t."""
    sigma_next = share * sigma
    a_t, a_s = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
    b = 1 - a_t / a_s
    x0, z_t = latent(seed), latent(seed + 1)
    z_s = math.sqrt(a_s) * b / (1 - a_t) * x0 + math.sqrt(a_t / a_s) * (1 - a_s) / (1 - a_t) * z_t
    mu = posterior_mean(x0, z_t / math.sqrt(a_t), sigma, sigma_next)
    close(mu * math.sqrt(a_s), z_s, 1e-8)


def test_posterior_mean_literal() -> None:
    # a quarter of the way's square is left: 1 + (1/2)^2 (5 - 1)
    close(posterior_mean(rows([1.0]), rows([5.0]), 8.0, 4.0), rows([2.0]))
    close(euler_step(rows([1.0]), rows([5.0]), 8.0, 4.0), rows([3.0]))


@pytest.mark.parametrize("step", [posterior_mean, euler_step])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_to_level_zero_gives_the_denoised_latent(step, dtype: torch.dtype) -> None:
    denoised, x = latent(1, dtype=dtype), latent(2, dtype=dtype)
    assert torch.equal(step(denoised, x, 3.0, 0.0), denoised)


@pytest.mark.parametrize("step", [posterior_mean, euler_step])
def test_levels_may_be_numbers_scalars_or_one_for_each_sample(step) -> None:
    denoised, x = latent(1), latent(2)
    level, level_next = torch.tensor([[5.0, 2.0, 0.5], [4.0, 0.3, 0.0]], dtype=torch.float64)
    each = step(denoised, x, level, level_next)
    for n in range(3):
        own = denoised[n : n + 1], x[n : n + 1]
        close(each[n : n + 1], step(*own, level[n], level_next[n]))
        close(each[n : n + 1], step(*own, level[n].item(), level_next[n].item()))


@pytest.mark.parametrize("step", [posterior_mean, euler_step])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_step_of_half_inputs_is_computed_in_float32(step, dtype: torch.dtype) -> None:
    denoised, x = latent(1, dtype=dtype), 14 * latent(2, dtype=dtype)
    stepped = step(denoised, x, 14.6146, 9.7)
    assert stepped.dtype == dtype
    assert torch.equal(stepped, step(denoised.float(), x.float(), 14.6146, 9.7).to(dtype))


# correction


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_correction_goes_the_share_of_the_way_back(dtype: torch.dtype) -> None:
    m, mu = latent(1, dtype=dtype), latent(2, dtype=dtype)
    assert torch.equal(correct(m, mu, 0.0), m)
    close(correct(m, mu, 1.0).double(), mu.double(), 1e-6)
    assert correct(m, mu, 0.4).dtype == dtype


def test_correction_literals() -> None:
    m, mu = rows([4.0, 0.0]), rows([0.0, 8.0])
    close(correct(m, mu, 0.25), rows([3.0, 2.0]))
    # n = 2 numbers: s = eta sqrt(2 / 16384), along (4, -8) / sqrt(80)
    s = 45 * math.sqrt(2 / 16384)
    close(correct(m, mu, 45, "paper"), rows([4.0 - s * 4 / math.sqrt(80), s * 8 / math.sqrt(80)]))


@given(seeds, shapes, st.floats(0.01, 100))
def test_paper_correction_is_a_step_of_given_length_towards_the_mean(seed: int, shape: tuple, eta: float) -> None:
    m, mu = latent(seed, shape), latent(seed + 1, shape)
    taken = m - correct(m, mu, eta, "paper")
    length = eta * math.sqrt(m[0].numel() / 16384)
    close(norms(taken), torch.full((shape[0],), length, dtype=torch.float64), 1e-8)
    cosine = ((m - mu) * taken).flatten(1).sum(1) / norms(m - mu) / norms(taken)
    close(cosine, torch.ones_like(cosine), 1e-8)


@pytest.mark.parametrize("eta", [45, 55])
def test_paper_step_on_the_papers_latent_is_eta_long(eta: float) -> None:
    m, mu = randn((2, 4, 64, 64), 1), randn((2, 4, 64, 64), 2)
    close(norms(m - correct(m, mu, eta, "paper")), torch.tensor([eta, eta]).double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (1, 4, 64, 64), (1, 4, 256, 256), (1, 16, 512, 256)])
def test_paper_correction_stays_where_it_is_at_the_mean(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    m = latent(1, shape, dtype)
    assert torch.equal(correct(m, m.clone(), 45, "paper"), m)


@pytest.mark.parametrize("rule", ["relative", "paper"])
def test_correction_is_per_sample(rule: str) -> None:
    m, mu = latent(1) * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1, 1), latent(2)
    single = [correct(m[n : n + 1], mu[n : n + 1], 0.3, rule) for n in range(3)]
    assert torch.equal(correct(m, mu, 0.3, rule), torch.cat(single))


@pytest.mark.parametrize("rule", ["relative", "paper"])
@pytest.mark.parametrize("dtype", HALVES)
def test_correction_of_half_inputs_is_computed_in_float32(rule: str, dtype: torch.dtype) -> None:
    m, mu = (14 * randn((1, 4, 64, 64), seed).to(dtype) for seed in (1, 2))
    assert torch.equal(correct(m, mu, 0.3, rule), correct(m.float(), mu.float(), 0.3, rule).to(dtype))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_unknown_correction_is_refused_by_name(eta: float) -> None:
    with pytest.raises(ValueError, match='relative, paper, not "absolute"'):
        correct(latent(1), latent(2), eta, "absolute")


# aggregation


def test_aggregation_mixes_in_slot_order() -> None:
    ys, means = [latent(n) for n in range(4)], [latent(n + 10) for n in range(4)]
    gammas = [0.3, 0.6, 0.2]
    by_hand = slerp(slerp(slerp(ys[0], ys[1], 0.3), ys[2], 0.6), ys[3], 0.2)
    for mixed in aggregate(ys, means, gammas, [0.0] * 4):
        close(mixed, by_hand)
    other_order = aggregate([ys[0], *ys[:0:-1]], means, gammas[::-1], [0.0] * 4)[0]
    assert (by_hand - other_order).abs().max() > 0.01


def test_aggregation_weights_are_nested() -> None:
    """Orthogonal unit latents: slot 2 gets sin(g2 90 deg), and what is left is shared between main and slot 1."""
    ys = [rows([1.0, 0.0, 0.0]), rows([0.0, 1.0, 0.0]), rows([0.0, 0.0, 1.0])]
    mixed = aggregate(ys, ys, [0.5, 1 / 3], [0.0] * 3)[0]
    left = math.cos(math.pi / 6) * math.sqrt(0.5)
    close(mixed, rows([left, left, 0.5]))


@pytest.mark.parametrize("rule", ["relative", "paper"])
def test_aggregation_corrects_each_model_towards_its_own_mean_by_its_own_eta(rule: str) -> None:
    ys, means, etas = [latent(n) for n in range(3)], [latent(n + 10) for n in range(3)], [0.1, 0.5, 0.9]
    m = slerp(slerp(ys[0], ys[1], 0.4), ys[2], 0.7)
    for new, mu, eta in zip(aggregate(ys, means, [0.4, 0.7], etas, rule), means, etas):
        close(new, correct(m, mu, eta, rule))


def test_full_relative_correction_leaves_every_model_at_its_own_mean() -> None:
    ys, means = [latent(n) for n in range(3)], [latent(n + 10) for n in range(3)]
    for new, mu in zip(aggregate(ys, means, [0.5, 0.5], [1.0] * 3), means):
        close(new, mu)


@given(seeds, st.floats(0, 15), st.floats(1, 60))
def test_papers_step_is_measured_in_variance_preserving_units(seed: int, sigma: float, eta: float) -> None:
    scale = 1 / math.sqrt(1 + sigma**2)
    ys, means = [latent(seed + n) for n in range(2)], [latent(seed + n + 2) for n in range(2)]
    in_ve = aggregate(ys, means, [0.5], [eta, eta], "paper", scale)
    in_vp = aggregate([y * scale for y in ys], [mu * scale for mu in means], [0.5], [eta, eta], "paper")
    for ve, vp in zip(in_ve, in_vp):
        close(ve * scale, vp, 1e-8)


def test_relative_aggregation_does_not_depend_on_the_scale() -> None:
    ys, means, etas = [latent(n) for n in range(3)], [latent(n + 3) for n in range(3)], [0.2, 0.4, 0.6]
    scaled = aggregate([7 * y for y in ys], [7 * mu for mu in means], [0.5, 0.3], etas)
    for one, other in zip(aggregate(ys, means, [0.5, 0.3], etas), scaled):
        close(7 * one, other)


@pytest.mark.parametrize("rule", ["relative", "paper"])
def test_aggregation_changes_nothing_in_place(rule: str) -> None:
    ys, means = [latent(n) for n in range(3)], [latent(n + 3) for n in range(3)]
    before = [x.clone() for x in (*ys, *means)]
    aggregate(ys, means, [0.5, 0.3], [0.2, 0.4, 0.6], rule)
    assert all(torch.equal(x, old) for x, old in zip((*ys, *means), before))
