"""The arguments of `amdm`: what cannot be is one sentence that names the argument, and what can be works."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from denoisers import SAMPLERS, SHAPE, Denoiser, EpsDenoiser, randn, sigmas
from torch import Tensor

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm

EULER = k_diffusion.sampling.sample_euler


class EulerDiscreteScheduler:
    """What a pipeline of diffusers holds in a sampler's place."""

    def step(self, noise: Tensor, timestep: int, sample: Tensor) -> Tensor:
        return sample


def co_models() -> list[CoRun]:
    return [CoRun(Denoiser(100))]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"steps": -3}, 'steps must be a whole number from 0 on, or "auto", not -3'),
        ({"steps": -1}, 'steps must be a whole number from 0 on, or "auto", not -1'),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"steps": "some"}, "steps must be a whole number"),
        ({"steps": None}, "steps must be a whole number"),
        ({"evaluations": -5}, 'evaluations must be a whole number from 0 on, or "auto", not -5'),
        ({"evaluations": "all"}, "evaluations must be a whole number"),
        ({"start": -1}, "start must be a whole number from 0 on, not -1"),
        ({"start": "auto"}, "start must be a whole number from 0 on, not 'auto'"),
        ({"nominal_steps": 0}, "nominal_steps must be a whole number from 1 on, not 0"),
        ({"eta": -1}, "eta must be from 0 to 1 with the relative correction, not -1"),
        ({"eta": 2}, "eta must be from 0 to 1 with the relative correction, not 2"),
        ({"eta": 1.5, "correction": "own"}, "eta must be from 0 to 1 with the own correction, not 1.5"),
        ({"eta": -45, "correction": "paper"}, "eta must be a number from 0 on, not -45"),
        ({"eta": math.nan}, "eta must be from 0 to 1"),
        ({"eta": math.inf, "correction": "paper"}, "eta must be a number from 0 on"),
        (
            {"co_models": [CoRun(Denoiser(1)), CoRun(Denoiser(2), eta=2)]},
            r"the eta of co_models\[1\] must be from 0",
        ),
        ({"co_models": [Denoiser(1)]}, r"co_models\[0\] must be a CoRun, not .*; give CoRun\(denoise\)"),
        ({"co_models": [CoRun(Denoiser(1)), lambda x, sigma: x]}, r"co_models\[1\] must be a CoRun"),
        ({"co_models": CoRun(Denoiser(1))}, "co_models must be a list of CoRun"),
        ({"co_models": Denoiser(1)}, "co_models must be a list of CoRun"),
        ({"func": "euler"}, "func must be a sampler's function, .*, not 'euler'"),
        ({"func": EulerDiscreteScheduler()}, "func must be a sampler's function, .*EulerDiscreteScheduler"),
        ({"func": None}, "func must be a sampler's function"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_runs(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        amdm(**{"func": EULER, "co_models": co_models(), **given})
    assert "\n" not in str(caught.value)


def test_the_word_for_a_number_that_is_chosen_is_a_word() -> None:
    x, drawn = SAMPLERS["euler"].noise(), []
    for given in ({"steps": "auto", "evaluations": "auto"}, {"evaluations": "auto"}):
        models = co_models()
        drawn.append(amdm(EULER, models, **given)(Denoiser(), x, sigmas(), disable=True))
        assert models[0].denoise.evaluations == 4
    assert torch.equal(*drawn)


@pytest.mark.parametrize("levels", [[1.0, 2.0, 4.0, 8.0], [8.0, 4.0, 5.0, 1.0], [8.0, math.nan, 1.0], [0.0, 1.0]])
def test_levels_that_rise_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match=r"sigmas must lead from the noise down to the picture, .* other order"):
        amdm(EULER, co_models())(Denoiser(), randn(SHAPE, 1).float(), sigmas=torch.tensor(levels), disable=True)


def test_timesteps_that_fall_are_refused() -> None:
    sample = amdm(SAMPLERS["ddim"].func, co_models())
    with pytest.raises(ValueError, match=r"timesteps.* must lead from the noise down to the picture"):
        sample(EpsDenoiser(Denoiser()), randn(SHAPE, 1).float(), timesteps=torch.tensor([900, 500, 1]), disable=True)


@pytest.mark.parametrize("levels", [[], [3.0], [0.0]])
@pytest.mark.parametrize("steps", ["auto", 3])
def test_a_schedule_without_steps_is_the_samplers_own_business(levels: list[float], steps: Any) -> None:
    models, x = co_models(), randn(SHAPE, 1).float()
    drawn = amdm(EULER, models, steps=steps)(Denoiser(), x, torch.tensor(levels), disable=True)
    assert torch.equal(drawn, x) and models[0].denoise.evaluations == 0


@pytest.mark.parametrize("shape", [(0, 4, 6, 5), (2, 4, 0, 5), (2, 4, 6, 0)])
@pytest.mark.parametrize("steps", ["auto", 3])
def test_a_latent_without_numbers_comes_back_as_it_is(shape: tuple[int, ...], steps: Any) -> None:
    drawn = amdm(EULER, co_models(), steps=steps)(lambda x, sigma: x / 2, torch.zeros(shape), sigmas(), disable=True)
    assert drawn.shape == shape


@pytest.mark.parametrize("kind", [float, lambda sigma: sigma, lambda sigma: sigma.double()])
@pytest.mark.parametrize("module", [True, False])
def test_a_sampler_may_call_the_level_by_a_bare_number(kind: Any, module: bool) -> None:
    """A number, or a tensor of one: what the model makes of it is the model's business."""

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        for sigma, sigma_next in itertools.pairwise(sigmas):
            x = x + (x - model(x, kind(sigma))) / sigma * (sigma_next - sigma)
        return x

    class Main(Denoiser):
        def forward(self, x: Tensor, sigma: Any) -> Tensor:
            return super().forward(x, torch.as_tensor(sigma).float().expand(len(x)))

    x = SAMPLERS["euler"].noise()
    main = Main() if module else (lambda x, sigma: Main()(x, sigma))
    found = amdm(sample, co_models(), steps=3)(main, x, sigmas())
    wanted = amdm(EULER, co_models(), steps=3)(Denoiser(), x, sigmas(), disable=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
