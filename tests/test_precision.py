"""Half precision: each evaluation is known as that of its step, whatever its level is rounded to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from denoisers import SAMPLERS, SHAPE, SIGMA_MAX, SIGMA_MIN, Denoiser, EpsDenoiser, randn, sigmas, timesteps
from torch import Tensor

from lib_amdm import CoRun, amdm
from lib_amdm.core.levels import flow, variance_exploding

# torchsde says so of the outermost level's rounding, with k-diffusion's samplers alone as well
pytestmark = pytest.mark.filterwarnings("ignore:Should have t")

TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def shifted(steps: int, shift: float) -> Tensor:
    """A flow model's schedule from pure noise on."""
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * even / (1 + (shift - 1) * even)


def exponential(steps: int) -> Tensor:
    levels = torch.linspace(math.log(SIGMA_MAX), math.log(SIGMA_MIN), steps, dtype=torch.float64).exp()
    return torch.cat([levels, levels.new_zeros(1)])


SCHEDULES: dict[str, tuple[Callable, Tensor]] = {
    "flow, 30 steps": (flow, shifted(30, 1.0)),
    "flow, 50 steps, shift 12": (flow, shifted(50, 12.0)),
    "flow, 8 steps, shift 3": (flow, shifted(8, 3.0)),
    "Karras, 20 steps": (variance_exploding, sigmas(20, torch.float64)),
    "Karras, 150 steps": (variance_exploding, sigmas(150, torch.float64)),
    "exponential, 150 steps": (variance_exploding, exponential(150)),
}
EACH_SCHEDULE = pytest.mark.parametrize("schedule", SCHEDULES)


def zero(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
    return torch.zeros_like(x)


def one(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
    return torch.ones_like(x)


def counted(
    sampler: str,
    schedule: str,
    dtype: torch.dtype,
    kind: torch.dtype,
    steps: int | None = None,
    call: Any = None,
    **more: Any,
) -> tuple[Tensor, list[tuple[int, int]], list[float]]:
    """The latent of `zero`, mixed wholly with `one`; the steps that were reported; the levels of `one`."""
    level_of, levels = SCHEDULES[schedule]
    heard: list[tuple[int, int]] = []
    shown: list[float] = []

    def co_model(x: Tensor, sigma: Tensor) -> Tensor:
        shown.append(sigma[0].item())
        return one(x, sigma)

    co = CoRun(co_model, gamma=1.0, form=lambda level: level)
    mixing = amdm(
        SAMPLERS[sampler].func,
        [co],
        steps=len(levels) - 1 if steps is None else steps,
        level_of=level_of,
        on_mixed=lambda *said: heard.append(said),
        **more,
    )
    x = (levels[0] * randn(SHAPE, 1)).to(dtype)
    return mixing(zero, x, levels.to(kind), disable=True, **(call or {})), heard, shown


@EACH_SCHEDULE
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("same", [True, False], ids=["schedule of the same", "schedule in float32"])
def test_all_of_k_are_mixed(schedule: str, dtype: torch.dtype, same: bool) -> None:
    steps = len(SCHEDULES[schedule][1]) - 1
    drawn, heard, shown = counted("euler", schedule, dtype, dtype if same else torch.float32)
    assert heard == [(number, steps) for number in range(1, steps + 1)]
    # where two levels are one in half precision no step is made between them
    distinct = len(set(SCHEDULES[schedule][1].to(dtype).tolist())) - 1 if same else steps
    assert len(shown) == distinct
    # each model says the same of every latent, so all of the picture is the one that has all of the share
    torch.testing.assert_close(drawn.float(), torch.ones(SHAPE), rtol=0, atol=4 * torch.finfo(dtype).eps)
    _, heard, shown = counted("euler", schedule, dtype, torch.float32, steps=7, evaluations=3)
    assert (len(heard), len(shown)) == (7, 3)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde"])
@pytest.mark.parametrize("schedule", ["Karras, 20 steps", "exponential, 150 steps"])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_between_two_levels_is_the_step_above(sampler: str, schedule: str, dtype: torch.dtype) -> None:
    """A sampler that looks between two levels finds each step settled at its own level, and no step twice."""
    levels = SCHEDULES[schedule][1]
    _, heard, shown = counted(sampler, schedule, dtype, torch.float32, steps=12)
    assert len(heard) == len(shown) == 12
    rounding = 2 * max(torch.finfo(kind).eps for kind in (dtype, torch.float32))
    assert shown == pytest.approx(levels[:12].tolist(), rel=rounding)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steps", [20, 50])
def test_timesteps_that_a_type_does_not_have_are_those_of_their_steps(steps: int, dtype: torch.dtype) -> None:
    shown: list[float] = []
    heard: list[tuple[int, int]] = []

    def co_model(x: Tensor, sigma: Tensor) -> Tensor:
        shown.append(sigma[0].item())
        return Denoiser(100)(x, sigma)

    mixing = amdm(SAMPLERS["ddim"].func, [CoRun(co_model)], steps=steps, on_mixed=lambda *said: heard.append(said))
    mixing(EpsDenoiser(Denoiser()), randn(SHAPE, 1).to(dtype), timesteps(steps), disable=True)
    assert heard == [(number, steps) for number in range(1, steps + 1)]
    assert len(set(shown)) == len(shown) == steps


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("schedule", ["Karras, 20 steps", "Karras, 150 steps"])
def test_churn_is_known_in_every_type(schedule: str, dtype: torch.dtype) -> None:
    churn = {"s_churn": 0.3 * len(SCHEDULES[schedule][1])}
    _, heard, _ = counted("euler", schedule, dtype, dtype, steps=15, call=churn)
    assert heard == [(number, 15) for number in range(1, 16)]


@pytest.mark.parametrize("sampler", ["dpm_2", "dpmpp_sde"])
@pytest.mark.parametrize("schedule", ["Karras, 150 steps", "exponential, 150 steps"])
@pytest.mark.parametrize("dtype", TYPES)
def test_no_step_is_settled_between_two_levels(sampler: str, schedule: str, dtype: torch.dtype) -> None:
    """These look once at a step's level and once below it, however near the next level is."""
    levels, calls = SCHEDULES[schedule][1], []

    def main(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append(1)
        return x / 2

    settled: list[int] = []
    mixing = amdm(SAMPLERS[sampler].func, [CoRun(one)], steps=40, on_mixed=lambda *said: settled.append(len(calls)))
    mixing(main, (levels[0] * randn(SHAPE, 1)).to(dtype), levels.float(), disable=True)
    assert settled == [*range(1, 81, 2)]


@EACH_SCHEDULE
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_step_is_computed_at_the_level_of_the_schedule_not_at_its_rounding(schedule: str, half: torch.dtype) -> None:
    level_of, levels = SCHEDULES[schedule]

    def sample(model: Any, x: Tensor, sigmas: Tensor, disable: bool, kind: torch.dtype) -> Tensor:
        return SAMPLERS["euler"].func(lambda x, sigma: model(x, sigma.to(kind)), x, sigmas, disable=True)

    def run(kind: torch.dtype) -> Tensor:
        co = CoRun(lambda x, sigma: x.tanh(), 0.4, 0.3, form=lambda level: level)
        mixing = amdm(sample, [co], steps=len(levels) // 2, eta=0.3, level_of=level_of)
        return mixing(lambda x, sigma: x.sin(), levels[0].float() * randn(SHAPE, 1).float(), levels.float(), True, kind)

    torch.testing.assert_close(run(half), run(torch.float32), rtol=0, atol=1e-5)
