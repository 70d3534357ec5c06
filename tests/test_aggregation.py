"""The arithmetic: literal values, and what must hold for every latent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from denoisers import randn
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from lib_amdm.core.aggregation import CORRECTIONS, aggregate, correct, slerp

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALVES = (torch.float16, torch.bfloat16)
SHAPE = (3, 4, 5, 7)

EVERY_RULE = pytest.mark.parametrize("rule", CORRECTIONS)
OWN = torch.zeros(1, dtype=torch.float64)
"""A model's own step, where the rule does not look at it."""
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


@pytest.mark.parametrize("gap", [1e-4, 1e-3, 1e-2, 0.1])
def test_slerp_of_nearly_opposite_latents_is_that_of_double_precision(gap: float) -> None:
    a, other = (latent(seed, (1, 4, 64, 64), dtype=torch.float32) for seed in (1, 2))
    b = gap * other - a
    wanted = slerp(a.double(), b.double(), 0.3)
    assert (slerp(a, b, 0.3) - wanted).norm() < 1e-6 / gap * wanted.norm()


def test_slerp_mixes_ordinary_samples_beside_degenerate_ones() -> None:
    a = rows([1.0, 0.0], [1.0, 0.0], [0.0, 0.0])
    b = rows([0.0, 1.0], [1.0, 0.0], [0.0, 2.0])
    close(slerp(a, b, 0.5), rows([math.sqrt(0.5)] * 2, [1.0, 0.0], [0.0, 1.0]))


@given(seeds, st.floats(0.01, 1))
def test_a_map_with_one_share_everywhere_is_that_share(seed: int, t: float) -> None:
    a, b = latent(seed), latent(seed + 1)
    close(slerp(a, b, torch.full((1, 1, *a.shape[-2:]), t, dtype=torch.float64)), slerp(a, b, t), 1e-9)


def test_outside_a_region_the_first_latent_stands_and_inside_it_the_second() -> None:
    a, b = latent(1), latent(2)
    region = torch.zeros(1, 1, *a.shape[-2:]).double()
    region[..., :2] = 1
    mixed = slerp(a, b, region)
    assert torch.equal(mixed[..., :2], b[..., :2])
    assert torch.equal(mixed[..., 2:], a[..., 2:])


def test_regions_that_do_not_meet_do_not_disturb_each_other() -> None:
    """The angle is that within the region, so what another slot did elsewhere does not matter."""
    y, left, right = latent(1), latent(2), latent(3)
    regions = torch.zeros(2, 1, 1, *y.shape[-2:]).double()
    regions[0, ..., :1], regions[1, ..., 2:] = 0.7, 0.4
    both = aggregate([y, left, right], [y] * 3, [regions[0], regions[1]], [0.0] * 3)[0]
    one = aggregate([y, left], [y] * 2, [regions[0]], [0.0] * 2)[0]
    other = aggregate([y, right], [y] * 2, [regions[1]], [0.0] * 2)[0]
    assert torch.equal(both[..., :1], one[..., :1])
    assert torch.equal(both[..., 2:], other[..., 2:])
    assert torch.equal(both[..., 1:2], y[..., 1:2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_relative_correction_goes_the_share_of_the_way_back(dtype: torch.dtype) -> None:
    m, mu = latent(1, dtype=dtype), latent(2, dtype=dtype)
    assert torch.equal(correct(m, OWN, mu, 0.0), m)
    close(correct(m, OWN, mu, 1.0).double(), mu.double(), 1e-6)
    assert correct(m, OWN, mu, 0.4).dtype == dtype


def test_correction_literals() -> None:
    m, mu = rows([4.0, 0.0]), rows([0.0, 8.0])
    close(correct(m, OWN, mu, 0.25), rows([3.0, 2.0]))
    # n = 2 numbers: s = eta sqrt(2 / 16384), along (4, -8) / sqrt(80)
    s = 45 * math.sqrt(2 / 16384)
    close(correct(m, OWN, mu, 45, "paper"), rows([4.0 - s * 4 / math.sqrt(80), s * 8 / math.sqrt(80)]))


@given(seeds, shapes, st.floats(0.01, 100))
def test_paper_correction_is_a_step_of_given_length_towards_the_mean(seed: int, shape: tuple, eta: float) -> None:
    m, mu = latent(seed, shape), latent(seed + 1, shape)
    taken = m - correct(m, OWN, mu, eta, "paper")
    length = eta * math.sqrt(m[0].numel() / 16384)
    close(norms(taken), torch.full((shape[0],), length, dtype=torch.float64), 1e-8)
    cosine = ((m - mu) * taken).flatten(1).sum(1) / norms(m - mu) / norms(taken)
    close(cosine, torch.ones_like(cosine), 1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 4, 3, 3), (1, 4, 64, 64), (1, 4, 256, 256), (1, 16, 512, 256)])
def test_paper_correction_stays_where_it_is_at_the_mean(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    m = latent(1, shape, dtype)
    assert torch.equal(correct(m, OWN, m.clone(), 45, "paper"), m)


@EVERY_RULE
def test_correction_is_per_sample(rule: str) -> None:
    m, mu, y = latent(1) * torch.tensor([1e-3, 1.0, 1e3]).view(-1, 1, 1, 1), latent(2), latent(3)
    single = [correct(m[n : n + 1], y[n : n + 1], mu[n : n + 1], 0.3, rule) for n in range(3)]
    assert torch.equal(correct(m, y, mu, 0.3, rule), torch.cat(single))


@EVERY_RULE
@pytest.mark.parametrize("dtype", HALVES)
def test_correction_of_half_inputs_is_computed_in_float32(rule: str, dtype: torch.dtype) -> None:
    m, y, mu = (14 * randn((1, 4, 64, 64), seed).to(dtype) for seed in (1, 2, 3))
    wide = correct(m.float(), y.float(), mu.float(), 0.3, rule)
    assert torch.equal(correct(m, y, mu, 0.3, rule), wide.to(dtype))


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_unknown_correction_is_refused_by_name(eta: float) -> None:
    with pytest.raises(ValueError, match='relative, paper, norm, own, not "absolute"'):
        correct(latent(1), latent(2), latent(3), eta, "absolute")


def test_the_pull_that_keeps_the_norm_keeps_it_and_goes_the_way_of_the_relative_one() -> None:
    m, mu = latent(1), latent(2)
    pulled = correct(m, OWN, mu, 0.4, "norm")
    close(norms(pulled), norms(m), 1e-9)
    away = correct(m, OWN, mu, 0.4)
    close(pulled / norms(pulled).view(-1, 1, 1, 1), away / norms(away).view(-1, 1, 1, 1), 1e-9)


def test_the_pull_to_a_models_own_step_ends_there() -> None:
    m, y, mu = rows([4.0, 0.0]), rows([0.0, 2.0]), rows([9.0, 9.0])
    assert torch.equal(correct(m, y, mu, 1.0, "own"), y)
    close(correct(m, y, mu, 0.25, "own"), rows([3.0, 0.5]))


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


@EVERY_RULE
def test_aggregation_corrects_each_model_towards_its_own_mean_by_its_own_eta(rule: str) -> None:
    ys, means, etas = [latent(n) for n in range(3)], [latent(n + 10) for n in range(3)], [0.1, 0.5, 0.9]
    m = slerp(slerp(ys[0], ys[1], 0.4), ys[2], 0.7)
    for new, y, mu, eta in zip(aggregate(ys, means, [0.4, 0.7], etas, rule), ys, means, etas):
        close(new, correct(m, y, mu, eta, rule))


@given(seeds, st.floats(0, 15), st.floats(1, 60))
def test_papers_step_is_measured_in_variance_preserving_units(seed: int, sigma: float, eta: float) -> None:
    scale = math.sqrt(1 + sigma**2)
    ys, means = [latent(seed + n) for n in range(2)], [latent(seed + n + 2) for n in range(2)]
    in_ve = aggregate(ys, means, [0.5], [eta, eta], "paper", scale)
    in_vp = aggregate([y / scale for y in ys], [mu / scale for mu in means], [0.5], [eta, eta], "paper")
    for ve, vp in zip(in_ve, in_vp):
        close(ve / scale, vp, 1e-8)


@EVERY_RULE
def test_aggregation_changes_nothing_in_place(rule: str) -> None:
    ys, means = [latent(n) for n in range(3)], [latent(n + 3) for n in range(3)]
    before = [x.clone() for x in (*ys, *means)]
    aggregate(ys, means, [0.5, 0.3], [0.2, 0.4, 0.6], rule)
    assert all(torch.equal(x, old) for x, old in zip((*ys, *means), before))


@EVERY_RULE
@pytest.mark.parametrize("idle", [0, 0.0, "map", "no slot"])
def test_a_main_model_that_no_other_has_a_share_beside_is_its_own(rule: str, idle: float | str) -> None:
    ys, means = [latent(1), latent(2)], [latent(3), latent(4)]
    share: Any = torch.zeros(1, 1, *SHAPE[-2:]).double() if idle == "map" else idle
    count = 1 if idle == "no slot" else 2
    found = aggregate(ys[:count], means[:count], [share][: count - 1], [0.5, 0.3][:count], rule)
    assert torch.equal(found[0], ys[0])


@EVERY_RULE
@pytest.mark.parametrize("order", [1, -1])
def test_beside_a_region_shares_of_any_kind_leave_the_main_model_its_own_outside_of_all(rule: str, order: int) -> None:
    """A number of 0 is a share nowhere, a map one where it is above 0, and any other number one everywhere."""
    left, right = (torch.zeros(1, 1, *SHAPE[-2:]).double() for _ in range(2))
    left[..., :2], right[..., -1:] = 0.5, 0.7
    shares: list[Tensor | float] = [left, 0.0, right]
    everywhere_shares: list[Tensor | float] = [left, 0.1, right]
    ys, means = [latent(n) for n in range(4)], [latent(n + 4) for n in range(4)]
    etas = [0.5, 0.3, 0.3, 0.3]
    found = aggregate(ys, means, shares[::order], etas, rule)[0]
    assert torch.equal(found[..., 2:-1], ys[0][..., 2:-1])
    for part in (slice(None, 2), slice(-1, None)):
        assert (found[..., part] - ys[0][..., part]).abs().amin() > 0
    everywhere = aggregate(ys, means, everywhere_shares[::order], etas, rule)[0]
    assert (everywhere - ys[0]).abs().amin() > 0
