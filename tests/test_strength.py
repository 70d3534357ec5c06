"""The guidance that mixing takes away, and a co-model's prediction between its evaluations."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seeded import uniform
from torch import Tensor

from lib_amdm.core.arguments import CoRun, Mixing, Pass, Prediction
from lib_amdm.core.co_model import LastAnswer
from lib_amdm.core.sampling import amdm
from lib_amdm.core.strength import ENOUGH, strengthened

SHAPE = (2, 4, 6, 6)
WEAK = ENOUGH / 3


def predictions(count: int = 2) -> list[Prediction]:
    made = uniform("predictions", (count, 2, *SHAPE))
    return [Prediction(base + guidance, base) for base, guidance in made]


def across(count: int) -> list[Prediction]:
    """Make predictions whose guidances have the same length, at right angles to each other."""
    bases = uniform("bases", (count, *SHAPE))
    guidances = torch.zeros(count, *SHAPE)
    for number in range(count):
        guidances[number, :, number] = 3.0
    return [Prediction(base + guidance, base) for base, guidance in zip(bases, guidances)]


def mean(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).mean(0)


@pytest.mark.parametrize(("count", "shares"), [(2, [0.5]), (3, [0.5, 1 / 3])])
def test_guidances_at_right_angles_all_count_in_full(count: int, shares: list[float]) -> None:
    models = across(count)
    made = strengthened(models, shares, [ENOUGH / count] * count)
    full = mean([model.denoised - model.guidance for model in models]) + sum(model.guidance for model in models)
    torch.testing.assert_close(mean(made), full)


@given(share=st.floats(0, 1), scale=st.floats(0, 20))
def test_models_that_say_the_same_stay_as_they_are(share: float, scale: float) -> None:
    [model] = predictions(1)
    for made in strengthened([model, model], [share], [scale, scale]):
        torch.testing.assert_close(made, model.denoised)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_model_alone_stays_as_it_is(share: float) -> None:
    models = predictions()
    for made, model in zip(strengthened(models, [share], [WEAK, WEAK]), models):
        assert torch.equal(made, model.denoised)


@given(share=st.floats(0, 1), scales=st.tuples(st.floats(1, 30), st.floats(1, 30)))
def test_a_guidance_scale_rises_to_enough_at_most(share: float, scales: tuple[float, float]) -> None:
    models = predictions()
    for made, model, scale in zip(strengthened(models, [share], scales), models, scales):
        gain = (made - model.denoised).norm() / model.guidance.norm() + 1
        assert gain <= max(1, ENOUGH / scale) * 1.0001


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.0, 1.0), (ENOUGH, ENOUGH + 1)])
def test_no_guidance_and_strong_guidance_stay(scales: tuple[float, float]) -> None:
    models = across(2)
    for made, model in zip(strengthened(models, [0.5], scales), models):
        assert torch.equal(made, model.denoised)


def test_a_model_without_a_known_base_leaves_all_as_they_are() -> None:
    models = [*across(2), Prediction(torch.ones(SHAPE))]
    made = strengthened(models, [0.5, 0.3], [WEAK] * 3)
    assert all(one is model.denoised for one, model in zip(made, models))


def test_two_models_in_two_regions_stay_as_they_are() -> None:
    region = torch.zeros(1, 1, 6, 6)
    region[..., :3] = 1
    models = across(2)
    for made, model in zip(strengthened(models, [region], [WEAK, WEAK]), models):
        torch.testing.assert_close(made, model.denoised)


def test_regions_that_do_not_meet_do_not_disturb_each_other() -> None:
    left = torch.zeros(1, 1, 6, 6)
    left[..., :3] = 0.5
    right = left.flip(-1)
    models = predictions(3)
    both = strengthened(models, [left, right], [WEAK] * 3)
    one = strengthened(models[:2], [left], [WEAK] * 2)
    other = strengthened([models[0], models[2]], [right], [WEAK] * 2)
    for made, alone in ((both[0], one[0]), (both[1], one[1])):
        torch.testing.assert_close(made[..., :3], alone[..., :3])
    for made, alone in ((both[0], other[0]), (both[2], other[1])):
        torch.testing.assert_close(made[..., 3:], alone[..., 3:])


def test_the_known_part_of_an_inpainting_does_not_count() -> None:
    within = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    within[..., :3, :] = True
    models = across(2)
    noisy = [Prediction(torch.where(within, p.denoised, 50.0 * p.denoised), p.base) for p in models]
    for made, clean in zip(
        strengthened(noisy, [0.5], [WEAK, WEAK], within), strengthened(models, [0.5], [WEAK, WEAK], within)
    ):
        torch.testing.assert_close(torch.where(within, made, 0.0), torch.where(within, clean, 0.0))


def test_each_picture_of_a_batch_has_a_separate_strength() -> None:
    models = predictions()
    together = strengthened(models, [0.5], [WEAK, WEAK])
    for number in range(len(models[0].denoised)):
        one = [model.changed(lambda part, n=number: part[n : n + 1]) for model in models]  # type: ignore[misc]
        for made, alone in zip(together, strengthened(one, [0.5], [WEAK, WEAK])):
            torch.testing.assert_close(made[number : number + 1], alone)


def _silent(x: Tensor, sigma: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(("grown", "strength"), [(1.0, 1.0), (0.7, 0.7), (1.6, 1.6), (0.1, 0.5), (9.0, 2.0)])
def test_a_difference_in_guidance_follows_the_length_of_the_main_models_guidance(grown: float, strength: float) -> None:
    main, other, later = predictions(3)
    assert main.base is not None and other.base is not None and later.base is not None
    later_base = later.base
    later = Prediction(later_base + grown * main.guidance, later_base)
    now = LastAnswer.of(CoRun(_silent), other, main).now(CoRun(_silent), later)
    torch.testing.assert_close(now.base, later_base + (other.base - main.base))
    torch.testing.assert_close(now.guidance, later.guidance + strength * (other.guidance - main.guidance))


@pytest.mark.parametrize("unknown", ["then", "now", "of the co-model"])
def test_without_known_guidance_the_difference_is_reused_as_it_is(unknown: str) -> None:
    main, other, later = predictions(3)
    plain = Prediction(main.denoised) if unknown == "then" else main
    answer = LastAnswer.of(CoRun(_silent), Prediction(other.denoised) if unknown == "of the co-model" else other, plain)
    now = answer.now(CoRun(_silent), Prediction(later.denoised) if unknown == "now" else later)
    torch.testing.assert_close(now.denoised, later.denoised + other.denoised - main.denoised)
    assert now.base is None


def test_guidance_of_no_length_keeps_the_prediction_finite() -> None:
    main, other, later = predictions(3)
    assert main.base is not None
    silent = Prediction(main.base, main.base)
    assert LastAnswer.of(CoRun(_silent), other, silent).now(CoRun(_silent), later).denoised.isfinite().all()


def test_a_model_that_equals_the_main_one_has_no_effect_between_evaluations() -> None:
    main, later = predictions()
    now = LastAnswer.of(CoRun(_silent), main, main).now(CoRun(_silent), later)
    assert torch.equal(now.denoised, later.denoised)


def _euler(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    for sigma, sigma_next in pairwise(sigmas):
        x = x + (x - model(x, sigma.expand(len(x)))) / sigma * (sigma_next - sigma)
    return x


@pytest.mark.parametrize("alone", ["main", "co-model"])
def test_a_model_at_a_scale_of_1_counts_as_one_without_guidance(alone: str) -> None:
    def drawn(scale: float, knows_base: bool) -> Tensor:
        main_scale, co_scale = (scale, 3.0) if alone == "main" else (3.0, scale)
        models = across(2)

        def co(x: Tensor, sigma: Tensor) -> Tensor | Prediction:
            return models[1] if knows_base or alone == "main" else models[1].denoised

        base = models[0].base if knows_base or alone != "main" else None
        in_pass = Pass(guidance=main_scale, base=lambda: base)
        sampler = amdm(_euler, [CoRun(co, guidance=co_scale)], Mixing(steps=2), in_pass)
        return sampler(lambda x, sigma: models[0].denoised, torch.ones(SHAPE), torch.tensor([8.0, 4.0, 2.0, 0.0]))

    assert torch.equal(drawn(1.0, knows_base=True), drawn(1.0, knows_base=False))
    assert not torch.equal(drawn(2.0, knows_base=True), drawn(2.0, knows_base=False))
