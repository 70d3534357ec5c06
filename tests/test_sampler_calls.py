"""Samplers' calls of their denoiser, in whatever way, and calls of `amdm`: what cannot be is one sentence."""

from __future__ import annotations

import functools
import gc
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from denoisers import SAMPLERS, SHAPE, STEPS, Denoiser, denoiser_of, randn, sigmas
from torch import Tensor

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, amdm
from lib_amdm.core.sampling import LOOKED_AHEAD

EULER = k_diffusion.sampling.sample_euler


def mixed_euler(**more: Any) -> Tensor:
    """The latent that Euler draws, to compare with."""
    return amdm(EULER, [CoRun(Denoiser(100))], steps=4, **more)(Denoiser(), noise(), sigmas(), disable=True)


def noise(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return SAMPLERS["euler"].noise(shape)


def from_a_worker(model: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def call(x: Tensor, sigma: Tensor) -> Tensor:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(model, x, sigma).result()

    return call


WAYS: dict[str, Callable[[Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "by keyword": lambda model: lambda x, sigma: model(sigma=sigma, x=x),
    "from a worker thread": from_a_worker,
    "with a number": lambda model: lambda x, sigma: model(x, sigma[0].item()),
    "with a tensor of one": lambda model: lambda x, sigma: model(x, sigma[0]),
    "with a wide tensor of one": lambda model: lambda x, sigma: model(x, sigma[0].double()),
}


@pytest.mark.parametrize("module", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_sampler_may_call_its_denoiser_in_any_way(way: str, module: bool) -> None:
    """A bare number is the model's business."""

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        return EULER(WAYS[way](model), x, sigmas, disable=True)

    class Main(Denoiser):
        def forward(self, x: Tensor, sigma: Any, **extra: Any) -> Tensor:
            return super().forward(x, torch.as_tensor(sigma).float().expand(len(x)))

    graphs: list[bool] = []

    def other(x: Tensor, sigma: Tensor) -> Tensor:
        graphs.append(torch.is_grad_enabled())
        return Denoiser(100)(x, sigma)

    main = Main() if module else (lambda x, sigma: Main()(x, sigma))
    found = amdm(sample, [CoRun(other)], steps=4)(main, noise(), sigmas())
    torch.testing.assert_close(found, mixed_euler(), rtol=0, atol=1e-4 if "with" in way else 0)
    assert graphs == [False] * 4


def test_workers_may_call_it_at_once() -> None:
    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        with ThreadPoolExecutor(4) as pool:
            for sigma, sigma_next in pairwise(sigmas):
                level = sigma.expand(len(x))
                same = list(pool.map(lambda _, x=x, level=level: model(x, level), range(4)))
                assert all(torch.equal(one, same[0]) for one in same)
                x = x + (x - same[0]) / sigma * (sigma_next - sigma)
        return x

    class Slow(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            time.sleep(0.01)
            return super().forward(x, sigma)

    heard: list[tuple[int, int]] = []
    co = CoRun(Slow(100))
    found = amdm(sample, [co], steps=4, on_mixed=lambda *said: heard.append(said))(Denoiser(), noise(), sigmas())
    torch.testing.assert_close(found, mixed_euler())
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)] and denoiser_of(co).evaluations == 4


def steps_of_euler(model: Any, x: Tensor, sigmas: Tensor) -> Iterator[Tensor]:
    for sigma, sigma_next in pairwise(sigmas):
        x = x + (x - model(x, sigma.expand(len(x)))) / sigma * (sigma_next - sigma)
        yield x


def test_a_sampler_that_is_a_generator_is_mixed() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    co = CoRun(lambda x, sigma: weight * Denoiser(100)(x, sigma))
    sample = amdm(steps_of_euler, [co], steps=4)
    *_, found = sample(lambda x, sigma: weight * Denoiser()(x, sigma), noise(), sigmas())
    torch.testing.assert_close(found, mixed_euler())
    assert not found.requires_grad


def test_generators_may_take_turns_on_one_module() -> None:
    main, co = Denoiser(), Denoiser(100)
    runs = [amdm(steps_of_euler, [CoRun(co)], steps=4)(main, x, sigmas()) for x in (noise(), noise() / 2)]
    taken = [list(steps) for steps in zip(*runs)][-1]
    torch.testing.assert_close(taken[0], mixed_euler())
    assert main.evaluations == 2 * STEPS and co.evaluations == 8


def test_a_generators_last_answer_of_nan_is_heard_of() -> None:
    heard: list[int] = []
    co = CoRun(lambda x, sigma: x / 0 * 0, on_nan=lambda: heard.append(1))
    list(amdm(steps_of_euler, [co], steps=STEPS)(Denoiser(), noise(), sigmas()))
    assert len(heard) == STEPS


@pytest.mark.parametrize("shown", ["none", "another size"])
def test_a_sampler_that_never_calls_the_model_it_is_given_is_refused(shown: str) -> None:
    """It would draw the picture of the main model alone, and nobody would know."""
    own = Denoiser()

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        if shown == "another size":
            model(x[..., 1:], sigmas[:1].expand(len(x)))
        return EULER(own, x, sigmas, disable=True)

    with pytest.raises(ValueError, match="never called the model that it was given"):
        amdm(sample, [CoRun(Denoiser(100))], steps=4)(own, noise(), sigmas())


def sample_restarting(model: Any, x: Tensor, sigmas: Tensor, disable: bool = True) -> Tensor:
    """Euler to the sixth level, from there with new noise back to the second, and to the end."""
    down = EULER(model, x, sigmas[:6], disable=True)
    raised = down + (sigmas[1] ** 2 - sigmas[5] ** 2).sqrt() * randn(x.shape, 9).to(x)
    return EULER(model, raised, sigmas[1:], disable=True)


def test_a_sampler_that_goes_back_up_is_mixed_there_without_further_evaluations() -> None:
    levels, heard = sigmas(12), []
    same = amdm(sample_restarting, [CoRun(Denoiser(), 0.7)], steps=8)(Denoiser(), noise(), levels)
    torch.testing.assert_close(same, sample_restarting(Denoiser(), noise(), levels), rtol=0, atol=1e-4)
    co, main = CoRun(Denoiser(100), 1.0), Denoiser()
    drawn = amdm(sample_restarting, [co], steps=8, on_mixed=lambda *said: heard.append(said))(main, noise(), levels)
    assert denoiser_of(co).evaluations == 8 and heard == [(number, 8) for number in range(1, 9)]
    alone = EULER(Denoiser(), main.latents[5], levels[1:], disable=True)
    assert (drawn - alone).abs().max() > 1e-2


def sample_looking_ahead(model: Any, x: Tensor, sigmas: Tensor, disable: bool = True) -> Tensor:
    """Each step looks at the next two levels before it is made."""
    for k, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma.expand(len(x)))
        for ahead in sigmas[k + 1 : k + 3]:
            if ahead:
                model(denoised + ahead / sigma * (x - denoised), ahead.expand(len(x)))
        x = denoised + sigma_next / sigma * (x - denoised)
    return x


def test_a_sampler_that_looks_ahead_finds_each_step_as_it_was_settled() -> None:
    """A step's change is found at the first look, and is the same at each one."""
    changes: dict[float, list[Tensor]] = {}

    class Listening(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            self.own = super().forward(x, sigma)
            return self.own

    main = Listening()

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        def listened(x: Tensor, sigma: Tensor) -> Tensor:
            found = model(x, sigma)
            changes.setdefault(sigma[0].item(), []).append(found - main.own)
            return found

        return sample_looking_ahead(listened, x, sigmas)

    co = CoRun(Denoiser(100))
    amdm(sample, [co], steps=STEPS)(main, noise(), sigmas())
    assert denoiser_of(co).evaluations == STEPS and len(changes) == STEPS
    for seen in changes.values():
        assert all(torch.allclose(one, seen[0], atol=1e-5) for one in seen) and seen[0].abs().max() > 1e-4


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_fast", "ddim", "unipc"])
def test_what_is_kept_does_not_grow_with_the_steps(name: str) -> None:
    """Counted in an evaluation of the main model: the latents that are alive."""
    sampler, shape = SAMPLERS[name], (1, 3, 11, 7)

    class Counting(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            if self.evaluations == 20:
                alive.append(sum(type(each) is Tensor and each.shape == shape for each in gc.get_objects()))
            found = super().forward(x, sigma)
            self.latents.clear()
            return found

    alive: list[int] = []
    for steps in (6, 24):
        mixing = partial(amdm, co_models=[CoRun(lambda x, sigma: x / 2)], steps=steps, eta=0.2)
        sampler.run(sampler.model(Counting()), sampler.noise(shape), mixing, steps=24)
    few, many = alive
    assert many <= few + 1 + LOOKED_AHEAD


@pytest.mark.parametrize("fails", [0, 1])
@pytest.mark.parametrize(("evaluations", "at"), [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)])
def test_an_evaluation_that_failed_may_be_made_once_more(fails: int, evaluations: int, at: int) -> None:
    """A host that is out of memory frees some and calls the denoiser again: the picture is that without the failure."""

    class Failing(Denoiser):
        failed = False

        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            if self.evaluations == at and not self.failed:
                self.failed = True
                raise MemoryError
            return super().forward(x, sigma)

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        def tried(x: Tensor, sigma: Tensor) -> Tensor:
            try:
                return model(x, sigma)
            except MemoryError:
                return model(x, sigma)

        return EULER(tried, x, sigmas, disable=True)

    def run(kinds: list[type[Denoiser]], func: Callable) -> Tensor:
        models = [CoRun(kind(100 + n), 0.4) for n, kind in enumerate(kinds)]
        return amdm(func, models, steps=5, evaluations=evaluations)(Denoiser(), noise(), sigmas())

    kinds = [Denoiser, Denoiser]
    kinds[fails] = Failing
    assert torch.equal(run(kinds, sample), run([Denoiser, Denoiser], lambda m, x, s: EULER(m, x, s, disable=True)))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        *((name, levels) for name in ("ddim", "plms") for levels in ([], [1])),
        *(("euler", each) for each in ([], [3.0], [0.0])),
    ],
)
@pytest.mark.parametrize("steps", ["auto", 3])
def test_a_call_without_a_step_is_the_samplers_own(name: str, levels: list[float], steps: Any) -> None:
    """img2img with hardly any denoising: the WebUI hands an empty schedule on."""
    sampler, x, calls = SAMPLERS[name], SAMPLERS[name].noise(), list[Any]()

    @functools.wraps(sampler.func)
    def func(model: Any, *args: Any, **more: Any) -> Tensor:
        calls.append(model)
        return sampler.func(model, *args, **more)

    model, co = sampler.model(Denoiser()), CoRun(Denoiser(100))
    grid = torch.tensor(levels, dtype=torch.long if sampler.kind == "timesteps" else None)
    found = amdm(func, [co], steps=steps)(model, x, grid, disable=True)
    assert torch.equal(found, x) and calls == [model] and denoiser_of(co).evaluations == 0


NO_CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0}
QUIET: dict[str, list[dict[str, float]]] = {
    "ddim": [{}, {"eta": 0.0}],
    "euler": [{}, NO_CHURN, {"s_churn": 4.0, "s_tmax": 0.05}, {"s_churn": 4.0, "s_tmin": 50.0}],
    "euler_ancestral": [{"eta": 0.0}, {"s_noise": 0.0}],
    **{"dpmpp_2m_sde": [{"eta": 0.0}], "dpm_fast": [{}], "dpmpp_2m": [{}]},
}
NOISY: dict[str, list[dict[str, float]]] = {
    "ddim": [{"eta": 1.0}, {"eta": 0.3}],
    **{"euler": [{"s_churn": 4.0}, {"s_churn": 4.0, "s_tmin": 0.1, "s_tmax": 50.0}], "heun": [{"s_churn": 4.0}]},
    "euler_ancestral": [{}, {"eta": 0.5}],
    **{"dpmpp_2m_sde": [{}], "dpm_fast": [{"eta": 1.0}], "lcm": [{}]},
}
"""The arguments of a sampler's call."""


def evaluations_by_default(name: str, given: dict[str, Any]) -> int:
    sampler, co = SAMPLERS[name], CoRun(Denoiser(100))
    mixing = partial(amdm, co_models=[co], steps=12, evaluations="auto")
    sampler.run(sampler.model(Denoiser()), sampler.noise(), mixing, steps=20, **given)
    return denoiser_of(co).evaluations


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, calls in QUIET.items() for given in calls])
def test_co_models_are_evaluated_seldom_where_the_call_adds_no_noise(name: str, given: dict[str, float]) -> None:
    assert evaluations_by_default(name, given) == 4


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, calls in NOISY.items() for given in calls])
@pytest.mark.filterwarnings("ignore:Should have t")
def test_co_models_are_evaluated_more_often_where_the_call_adds_noise(name: str, given: dict[str, float]) -> None:
    assert evaluations_by_default(name, given) == 7


class EulerDiscreteScheduler:
    """The part of a pipeline of diffusers that takes a sampler's place."""

    def step(self, noise: Tensor, timestep: int, sample: Tensor) -> Tensor:
        return sample


def co_models() -> list[CoRun]:
    return [CoRun(Denoiser(100))]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"steps": -3}, 'steps must be a whole number from 0 on, or "auto", not -3'),
        ({"steps": -1}, 'steps must be a whole number from 0 on, or "auto", not -1'),
        *(({"steps": steps}, "steps must be a whole number") for steps in (2.5, "some", None)),
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
        ({"co_models": [CoRun(Denoiser(1)), CoRun(Denoiser(2), eta=2)]}, r"the eta of co_models\[1\] must be from 0"),
        ({"co_models": [Denoiser(1)]}, r"co_models\[0\] must be a CoRun, not .*; give CoRun\(denoise\)"),
        ({"co_models": [CoRun(Denoiser(1)), lambda x, sigma: x]}, r"co_models\[1\] must be a CoRun"),
        ({"co_models": CoRun(Denoiser(1))}, "co_models must be a list of CoRun"),
        ({"co_models": Denoiser(1)}, "co_models must be a list of CoRun"),
        ({"correction": "absolute"}, r'correction .* not "absolute"'),
        ({"mix": "blend"}, r'mix .* not "blend"'),
        ({"func": "euler"}, "func must be a sampler's function, .*, not 'euler'"),
        ({"func": EulerDiscreteScheduler()}, "func must be a sampler's function, .*EulerDiscreteScheduler"),
        ({"func": None}, "func must be a sampler's function"),
    ],
)
def test_what_cannot_be_is_refused_by_name_before_anything_runs(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        amdm(**{"func": EULER, "co_models": co_models(), **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "named"),
    [({"gamma": gamma}, "gamma") for gamma in (-0.1, 1.1, math.nan)]
    + [({"noise": "private"}, r'noise .* not "private"')],
)
def test_a_co_run_of_what_cannot_be_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        CoRun(Denoiser(), **given)


def test_the_word_for_a_number_that_is_chosen_is_a_word() -> None:
    x, drawn = SAMPLERS["euler"].noise(), []
    words: list[dict[str, Any]] = [{"steps": "auto", "evaluations": "auto"}, {"evaluations": "auto"}]
    for given in words:
        models = co_models()
        drawn.append(amdm(EULER, models, **given)(Denoiser(), x, sigmas(), disable=True))
        assert denoiser_of(models[0]).evaluations == 4
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        *(("euler", levels) for levels in ([1.0, 2.0, 4.0, 8.0], [4.0, 2.0, 8.0], [8.0, math.nan, 1.0], [0.0, 1.0])),
        ("ddim", [900, 500, 1]),
    ],
)
def test_levels_in_another_order_are_refused(name: str, levels: list[float]) -> None:
    sampler, kind = SAMPLERS[name], "timesteps" if name == "ddim" else "sigmas"
    with pytest.raises(ValueError, match=rf"{kind}.* must lead from the noise down to the picture, .* other order"):
        sample = amdm(sampler.func, co_models())
        sample(sampler.model(Denoiser()), sampler.noise(), disable=True, **{kind: torch.tensor(levels)})


def test_in_a_step_that_rises_nothing_is_mixed() -> None:
    euler, levels = SAMPLERS["euler"], torch.tensor([4.0, 5.0, 1.0, 0.0])

    def drawn(steps: int) -> Tensor:
        return amdm(EULER, co_models(), steps=steps)(Denoiser(), euler.noise(), levels, disable=True)

    plain = EULER(Denoiser(), euler.noise(), levels, disable=True)
    assert torch.equal(drawn(1), plain) and not torch.equal(drawn(2), plain)


def test_a_sampler_may_take_attributes_of_the_model_away() -> None:
    """SMEA samplers delete the latent that an inpainting is bound to, and set it anew."""
    main, euler = Denoiser(), SAMPLERS["euler"]
    main.init_latent = euler.noise()

    def deleting(model: Any, x: Tensor, sigmas: Tensor, **more: Any) -> Any:
        before = model.init_latent
        del model.init_latent
        assert not hasattr(model, "init_latent") and not hasattr(main, "init_latent")
        model.init_latent = before
        return EULER(model, x, sigmas, **more)

    amdm(deleting, co_models(), steps=2)(main, euler.noise(), sigmas(), disable=True)
    assert torch.equal(main.init_latent, euler.noise())


@pytest.mark.parametrize("shape", [(0, 4, 6, 5), (2, 4, 0, 5), (2, 4, 6, 0)])
@pytest.mark.parametrize("steps", ["auto", 3])
def test_a_latent_without_numbers_comes_back_as_it_is(shape: tuple[int, ...], steps: Any) -> None:
    drawn = amdm(EULER, co_models(), steps=steps)(lambda x, sigma: x / 2, torch.zeros(shape), sigmas(), disable=True)
    assert drawn.shape == shape
