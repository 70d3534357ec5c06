"""`amdm` around every sampler of k-diffusion and the WebUI's kinds: what must hold exactly, what may not change."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import pytest
import torch
from denoisers import (
    SAMPLERS,
    SEVERAL,
    SHAPE,
    SIGMA_MAX,
    SIGMA_MIN,
    STATELESS,
    STEPS,
    Denoiser,
    SampleNoise,
    Sampler,
    denoiser_of,
    randn,
    sigmas,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from amdm_lab.studio import k_diffusion_parts as k_diffusion
from lib_amdm import CoRun, Mixing, Pass, amdm
from lib_amdm.core.aggregation import slerp
from lib_amdm.core.arguments import AUTO
from lib_amdm.core.co_model import private_seeds
from lib_amdm.core.levels import variance_exploding
from lib_amdm.core.plan import automatic_steps, spread

# torchsde says so of the outermost level's rounding, with k-diffusion's samplers alone as well
pytestmark = pytest.mark.filterwarnings("ignore:Should have t")

EVERY = [pytest.param(sampler, id=name) for name, sampler in SAMPLERS.items()]
FIXED = [pytest.param(s, id=s.name) for s in SAMPLERS.values() if s.name != "dpm_adaptive"]
"""DPM adaptive chooses its steps by what the models say."""
_KINDS = ("euler", "heun", "dpmpp_2m_sde", "dpm_fast", "dpm_adaptive", "ddim", "unipc")
KINDS = [pytest.param(SAMPLERS[name], id=name) for name in _KINDS]
"""One sampler of each kind of plan, and of each kind of history and noise: for what the plan alone promises."""
ONCE_A_STEP = [pytest.param(SAMPLERS[name], id=name) for name in SAMPLERS if name not in SEVERAL]
ONE_PIECE = [pytest.param(SAMPLERS[name], id=name) for name in STATELESS]
DDIM_KIN = [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "ddim")]
FORCED = {"eta": 0.0, "force": True}
EULER, DPMPP_3M = SAMPLERS["euler"], k_diffusion.sampling.sample_dpmpp_3m_sde


def co_runs(count: int = 2, gamma: float = 0.4, eta: float = 0.3, **more: Any) -> list[CoRun]:
    return [CoRun(Denoiser(100 + slot), gamma, eta, **more) for slot in range(count)]


def silent() -> list[CoRun]:
    """A co-model that is evaluated where the way is forced, but has no share."""
    return [CoRun(Denoiser(100), gamma=0.0, eta=0.0)]


def wrapped(
    co_models: list[CoRun], steps: int | Literal["auto"] = 3, **more: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda func: amdm(func, co_models, steps=steps, **more)


def plain(sampler: Sampler, x: Tensor, **more: Any) -> Tensor:
    return sampler.run(sampler.model(Denoiser()), x, **more)


def mixed(
    sampler: Sampler, x: Tensor, co_models: list[CoRun], steps: int | Literal["auto"] = 3, eta: float = 0.3, **more: Any
) -> Tensor:
    """One run; keywords of `amdm` go there, and all others to the sampler."""
    known = {each.name for record in (Mixing, Pass) for each in dataclasses.fields(record)}
    own = {name: more.pop(name) for name in set(more) & known}
    return sampler.run(sampler.model(Denoiser()), x, wrapped(co_models, steps, eta=eta, **own), **more)


def private_noise(sampler: Sampler, seeds: list[int]) -> dict[str, Any]:
    """The argument that makes a stochastic sampler's noise depend on each sample's seed alone."""
    return {"noise_sampler": SampleNoise(SHAPE[1:], seeds)} if "noise_sampler" in sampler.parameters else {}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sampler", KINDS)
@pytest.mark.parametrize("off", ["no steps", "no co-model", "no share"])
def test_off_calls_the_sampler_on_the_very_arguments(sampler: Sampler, off: str) -> None:
    calls = []

    @functools.wraps(sampler.func)
    def func(*args: Any, **kwargs: Any) -> Any:
        calls.append((args, kwargs))
        return sampler.func(*args, **kwargs)

    co_models = {"no co-model": [], "no share": co_runs(gamma=0.0)}.get(off, co_runs())
    steps = 0 if off == "no steps" else 3
    model, x, callback = sampler.model(Denoiser()), sampler.noise(), lambda step: None
    args, kwargs = (model, x), {**sampler.grid(), "extra_args": {}, "callback": callback, "disable": True}
    torch.manual_seed(5)
    got = amdm(func, co_models, steps=steps)(*args, **kwargs)
    ((given_args, given_kwargs),) = calls
    assert all(given is own for given, own in zip(given_args, args)) and len(given_args) == len(args)
    assert all(given_kwargs[name] is kwargs[name] for name in kwargs) and given_kwargs.keys() == kwargs.keys()
    assert torch.equal(got, plain(sampler, x))
    assert [denoiser_of(co).evaluations for co in co_models] == [0] * len(co_models)


@pytest.mark.parametrize("steps", [1, 3, STEPS])
@pytest.mark.parametrize("sampler", EVERY)
def test_the_forced_way_without_a_share_is_bitwise_the_sampler(sampler: Sampler, steps: int) -> None:
    x, co_models = sampler.noise(), silent()
    assert torch.equal(mixed(sampler, x, co_models, steps, **FORCED), plain(sampler, x))
    assert denoiser_of(co_models[0]).evaluations == steps or sampler.name == "dpm_adaptive"


def test_nominal_steps_say_how_far_the_early_steps_of_a_sampler_without_a_grid_reach() -> None:
    sampler, co_models = SAMPLERS["dpm_adaptive"], co_runs(1)
    mixed(sampler, sampler.noise(), co_models, 3, nominal_steps=10)
    last = SIGMA_MAX * (sampler.grid()["sigma_min"] / SIGMA_MAX) ** 0.3
    levels = [level[0].item() for level in denoiser_of(co_models[0]).levels]
    assert levels[0] == pytest.approx(SIGMA_MAX)
    assert last < levels[-1] < last * (SIGMA_MAX / sampler.grid()["sigma_min"]) ** 0.1


def test_a_level_below_its_steps_end_is_left_alone() -> None:
    """UniPC may put its evaluations at levels of its own."""
    unipc = SAMPLERS["unipc"]

    @functools.wraps(unipc.func)
    def lower(model: Any, x: Tensor, timesteps: Tensor, **more: Any) -> Tensor:
        return unipc.func(model, x, timesteps // 3, is_img2img=True, **more)

    sampler, co_models = Sampler("unipc", lower), co_runs(1)
    x = sampler.noise()
    assert torch.equal(mixed(sampler, x, co_models, 3, evaluations=0), plain(sampler, x))
    assert denoiser_of(co_models[0]).evaluations == 0


@pytest.mark.parametrize(("steps", "evaluations"), [(1, 0), (3, 0), (3, 2), (STEPS, 1)])
@pytest.mark.parametrize("sampler", EVERY)
def test_a_co_model_that_is_the_main_model_changes_nothing(sampler: Sampler, steps: int, evaluations: int) -> None:
    x = sampler.noise()
    same = [CoRun(Denoiser(), gamma) for gamma in (0.5, 0.3)]
    close(mixed(sampler, x, same, steps, eta=0.0, evaluations=evaluations), plain(sampler, x))


@pytest.mark.parametrize("sampler", DDIM_KIN)
def test_the_main_module_itself_may_be_the_co_model(sampler: Sampler) -> None:
    denoiser, x = Denoiser(), sampler.noise()
    got = sampler.run(sampler.model(denoiser), x, wrapped([CoRun(denoiser, 0.5)], 3))
    close(got, plain(sampler, x))
    assert denoiser.evaluations == STEPS + 3


@pytest.mark.parametrize("steps", [STEPS, STEPS + 1])
@pytest.mark.parametrize("sampler", ONCE_A_STEP)
def test_a_whole_share_at_every_step_is_the_co_models_own_sampler(sampler: Sampler, steps: int) -> None:
    """With the same noise, and the same history, for whatever evaluates once a step."""
    if sampler.name == "unipc" and steps == STEPS:
        return  # of as many timesteps it makes one step more than the others
    x, other = sampler.noise(), CoRun(Denoiser(100), gamma=1.0)
    own = sampler.run(sampler.model(Denoiser(100)), x)
    close(mixed(sampler, x, [other], steps, eta=0.0), own)
    assert (own - plain(sampler, x)).abs().max() > 0.1


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("correction", ["relative", "paper"])
def test_every_sampler_is_moved_and_stays_finite_under_both_rules(sampler: Sampler, correction: str) -> None:
    x, etas = sampler.noise(), {"relative": 0.45, "paper": 45.0}
    got = mixed(sampler, x, co_runs(eta=etas[correction]), eta=etas[correction], correction=correction)
    assert torch.isfinite(got).all()
    assert (got - plain(sampler, x)).abs().max() > 1e-3
    assert got.abs().max() < 20


@pytest.mark.parametrize("sampler", EVERY)
def test_a_full_correction_drops_what_was_mixed(sampler: Sampler) -> None:
    """eta = 1: each model goes on from its own posterior mean, so the others' shares no longer matter."""
    x = sampler.noise(dtype=torch.float64)
    one = mixed(sampler, x, co_runs(gamma=0.2, eta=1.0), eta=1.0)
    other = mixed(sampler, x, co_runs(gamma=0.9, eta=1.0), eta=1.0)
    close(one, other, 1e-6)


@pytest.mark.parametrize("sampler", KINDS)
def test_co_models_see_their_own_latents_at_the_main_models_levels(sampler: Sampler) -> None:
    main, co_models = Denoiser(), co_runs(eta=0.3)
    sampler.run(sampler.model(main), sampler.noise(), wrapped(co_models, 3))
    for co in co_models:
        seen = denoiser_of(co)
        assert all(
            level.shape == SHAPE[:1] and latent.shape == SHAPE for level, latent in zip(seen.levels, seen.latents)
        )
        top = [level[0].item() for level in seen.levels]
        assert top == sorted(top, reverse=True)
        close(seen.levels[0], main.levels[0], 1e-3)
        close(seen.latents[0], main.latents[0], 1e-3)
        assert (seen.latents[1] - main.latents[-1]).abs().max() > 1e-3
    # after one mix each has been corrected towards itself
    assert (denoiser_of(co_models[0]).latents[1] - denoiser_of(co_models[1]).latents[1]).abs().max() > 1e-3


@pytest.mark.parametrize("sampler", DDIM_KIN)
def test_before_the_start_every_model_goes_its_own_way(sampler: Sampler) -> None:
    x, late = sampler.noise(), co_runs(2, gamma=0.7)
    assert (mixed(sampler, x, late, 3, start=2) - plain(sampler, x)).abs().max() > 1e-3
    assert [denoiser_of(co).evaluations for co in late] == [3, 3]
    alone, levels = Denoiser(100), [level[0] for level in denoiser_of(late[0]).levels]
    EULER.run(alone, denoiser_of(late[0]).latents[0], sigmas=torch.stack([*levels, torch.zeros(())]))
    close(denoiser_of(late[0]).latents[2], alone.latents[2], 1e-3)
    for steps, start in ((3, 3), (AUTO, STEPS)):
        never = co_runs(2, gamma=0.7)
        assert torch.equal(mixed(sampler, x, never, steps, start=start), plain(sampler, x))
        assert [denoiser_of(co).evaluations for co in never] == [0, 0], (
            "nothing would be mixed, so nothing is evaluated"
        )


def test_a_slot_without_a_share_is_left_out_beside_one_with() -> None:
    sampler = EULER
    x, idle = sampler.noise(), CoRun(Denoiser(7), gamma=0.0)
    with_idle = mixed(sampler, x, [idle, *co_runs(1)])
    assert torch.equal(with_idle, mixed(sampler, x, co_runs(1)))
    assert denoiser_of(idle).evaluations == 0


@pytest.mark.parametrize(("correction", "noise"), [("relative", "shared"), ("paper", "independent")])
@pytest.mark.parametrize("sampler", FIXED)
def test_a_batch_is_its_images_one_by_one(sampler: Sampler, correction: str, noise: str) -> None:
    """DPM adaptive is left out: it chooses its own steps by the error of the whole batch."""
    shape, seeds = (3, *SHAPE[1:]), [11, 5, 42]
    x = sampler.noise(shape) * torch.tensor([0.9, 1.0, 1.1]).view(-1, 1, 1, 1)

    def run(part: slice) -> Tensor:
        own: dict[str, Any] = {"noise": noise, "seed": seeds[part]}
        co_models = [CoRun(Denoiser(100), 0.4, 0.3, **own), CoRun(Denoiser(101), 0.6, 0.2, **own)]
        return mixed(sampler, x[part], co_models, correction=correction, **private_noise(sampler, seeds[part]))

    together, singles = run(slice(None)), [run(slice(n, n + 1)) for n in range(3)]
    close(together, torch.cat(singles))
    assert (singles[0] - singles[1]).abs().max() > 0.01


@pytest.mark.parametrize("sampler", EVERY)
def test_the_same_seed_twice_is_the_same_image(sampler: Sampler) -> None:
    first, second = (
        mixed(sampler, sampler.noise(), [*co_runs(1, noise="independent", seed=9), *co_runs(1)]) for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("steps", "more"),
    [(1, {}), (STEPS, {"noise": "independent", "seed": 3}), (3, {"noise": "independent"})],
    ids=["shared", "seeded", "unseeded"],
)
@pytest.mark.parametrize("sampler", FIXED)
def test_the_global_random_stream_moves_as_with_the_sampler_alone(sampler: Sampler, steps: int, more: dict) -> None:
    plain(sampler, sampler.noise())
    alone = torch.get_rng_state()
    mixed(sampler, sampler.noise(), co_runs(**more), steps)
    assert torch.equal(torch.get_rng_state(), alone)


@pytest.mark.parametrize("sampler", [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "ddim", "dpm_fast")])
def test_independent_noise_is_private_reproducible_and_starts_from_the_image(sampler: Sampler) -> None:
    """img2img: the co-model's first latent is the clean latent with the first level's noise of its own."""
    seeds, init = [3, 77], randn(SHAPE, 8).float()
    for clean in (init, None):
        co_models = [CoRun(Denoiser(100), 0.5, 0.45, "independent", seeds)]
        main = Denoiser()
        more = {"init": clean}
        sampler.run(sampler.model(main), sampler.noise(), wrapped(co_models, 1, **more))
        own = torch.stack([torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        level = main.levels[0].view(-1, 1, 1, 1)
        expected = level * own + (0 if clean is None else clean)
        close(denoiser_of(co_models[0]).latents[0], expected, 1e-3)


def test_one_seed_stands_for_the_images_that_follow_it_and_none_for_new_noise() -> None:
    one, listed, other, new, new_again = (
        mixed(EULER, EULER.noise(), co_runs(noise="independent", seed=seed)) for seed in (9, [9, 10], 10, None, None)
    )
    assert torch.equal(one, listed)
    assert not torch.equal(one, other) and not torch.equal(new, new_again)
    with pytest.raises(ValueError, match="3 entries for a batch of 2"):
        mixed(EULER, EULER.noise(), co_runs(noise="independent", seed=[1, 2, 3]))


def test_private_seeds_are_each_image_and_slots_own() -> None:
    images = [0, 1, 2, 3, 1234567890, 2**32 - 1]
    slots = {slot: private_seeds(images, slot) for slot in range(1, 11)}
    drawn = [seed for seeds in slots.values() for seed in seeds]
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(images)
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert private_seeds(images[2:3], 4) == slots[4][2:3], "an image's seed does not depend on its batch"
    for seed in drawn:
        torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("sampler", KINDS)
def test_no_more_steps_are_mixed_than_there_are(sampler: Sampler) -> None:
    x, co_models = sampler.noise(), co_runs(1)
    # UniPC makes one step more of as many timesteps; DPM adaptive as many as it likes
    most = STEPS + (sampler.name == "unipc")
    got = mixed(sampler, x, co_models, STEPS + 5, nominal_steps=STEPS)
    assert denoiser_of(co_models[0]).evaluations == most or sampler.name == "dpm_adaptive"
    assert torch.equal(got, mixed(sampler, x, co_runs(1), most, nominal_steps=STEPS))


@pytest.mark.parametrize(
    ("steps", "evaluations"), [(1, 0), (2, 0), (4, 0), (4, 1), (5, 2), (STEPS, 3), (STEPS, STEPS), (3, 9)]
)
@pytest.mark.parametrize("sampler", KINDS)
def test_each_co_model_has_its_evaluations_and_the_main_model_its_own(
    sampler: Sampler, steps: int, evaluations: int
) -> None:
    alone, main, co_models = Denoiser(), Denoiser(), co_runs(3)
    sampler.run(sampler.model(alone), sampler.noise())
    sampler.run(sampler.model(main), sampler.noise(), wrapped(co_models, steps, evaluations=evaluations))
    counts, most = [denoiser_of(co).evaluations for co in co_models], min(steps, evaluations or steps)
    if sampler.name == "dpm_adaptive" and evaluations:
        assert all(1 <= count <= most for count in counts)
    else:
        assert counts == [most] * 3
    assert main.evaluations == alone.evaluations or sampler.name == "dpm_adaptive"


@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 10))
def test_evaluations_are_spread_over_the_logarithm_of_the_level(steps: int, evaluations: int, rho: float) -> None:
    """From the first on, each step once, and each as near to its even place as the others leave room for."""
    ramp = torch.linspace(SIGMA_MAX ** (1 / rho), SIGMA_MIN ** (1 / rho), steps + 1).double() ** rho
    chosen = spread([variance_exploding(sigma) for sigma in ramp.tolist()], steps, evaluations)
    assert chosen == sorted(set(chosen))
    assert chosen[0] == 0 and chosen[-1] < steps and len(chosen) == min(steps, evaluations)


def test_an_even_schedule_is_spread_evenly() -> None:
    levels = [variance_exploding(2.0**-k) for k in range(13)]
    assert spread(levels, 12, 4) == [0, 3, 6, 9]
    assert spread(levels, 12, 3) == [0, 4, 8]
    assert spread(levels, 12, 0) == list(range(12))


@pytest.mark.parametrize("factor", [0.5, 0.9])
@pytest.mark.parametrize("evaluations", [3, 4, 5])
def test_where_all_steps_are_mixed_the_last_is_as_deep_as_the_others(factor: float, evaluations: int) -> None:
    """No noise at all has no logarithm: evaluations lie as they would in a schedule that goes on as it came."""
    levels = [variance_exploding(factor**k) for k in range(13)]
    assert spread([*levels[:12], variance_exploding(0.0)], 12, evaluations) == spread(levels, 12, evaluations)


@pytest.mark.parametrize("top", [20.0, 500.0, 1e4, math.inf])
def test_levels_of_nothing_but_noise_are_one_for_the_spread(top: float) -> None:
    """Above some level a latent shows nothing of its picture, so no evaluation is spent on the way down from there."""
    below = [variance_exploding(20 * 0.5**k) for k in range(9)]
    above = [variance_exploding(top), variance_exploding(min(top, 1e4)), *below[1:]]
    assert spread(above, 9, 4) == spread([below[0], *below], 9, 4)


@pytest.mark.parametrize("left_out", [[1], [0, 1], [2, 3]])
@pytest.mark.parametrize("evaluations", [3, 4])
def test_a_sampler_that_leaves_out_levels_gets_as_many_evaluations(left_out: list[int], evaluations: int) -> None:
    """It is given the whole schedule, and steps over some of its levels."""

    def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
        kept = [k for k in range(len(sigmas)) if k not in left_out]
        return EULER.func(model, x, sigmas[kept], disable=True)

    co_models = co_runs(2)
    amdm(sample, co_models, steps=10, evaluations=evaluations)(Denoiser(), EULER.noise(), sigmas(14))
    assert [denoiser_of(co).evaluations for co in co_models] == [evaluations] * 2


def test_a_difference_is_used_again_where_the_co_model_is_not_evaluated() -> None:
    """One evaluation in all steps: the co-model's prediction stays beside the main one's."""
    other, x = Denoiser(100), EULER.noise(dtype=torch.float64)
    got = mixed(EULER, x, [CoRun(other, gamma=1.0)], STEPS, eta=0.0, evaluations=1)
    main = Denoiser()
    first: list[Tensor] = []

    def beside(latent: Tensor, sigma: Tensor) -> Tensor:
        own = main(latent, sigma)
        first.append(Denoiser(100)(latent, sigma) - own) if not first else None
        return own + first[0]

    close(got, EULER.run(beside, x), 1e-9)


def test_a_models_state_key_decides_when_its_difference_is_taken_again() -> None:
    levels = sigmas()
    state_key, co_models = (lambda sigma: sigma < levels[3].item() * 1.001), co_runs(2)
    co_models[0] = CoRun(Denoiser(100), 0.5, state_key=state_key)
    mixed(EULER, EULER.noise(), co_models, STEPS, evaluations=1)
    assert [level[0].item() for level in denoiser_of(co_models[0]).levels] == [levels[0].item(), levels[3].item()]
    assert denoiser_of(co_models[1]).evaluations == 1


def test_by_default_larger_latents_are_mixed_down_to_higher_levels() -> None:
    levels = [variance_exploding(sigma) for sigma in sigmas(40).tolist()]
    steps = [automatic_steps(levels, (side, side)) for side in (16, 32, 64, 128)]
    assert steps == sorted(steps, reverse=True) and len(set(steps)) == 4
    assert automatic_steps(levels, (32, 128)) == automatic_steps(levels, (64, 64))
    assert automatic_steps(levels[30:], (128, 128)) == 3, "a quarter, where all levels lie lower"
    few = [variance_exploding(sigma) for sigma in (14.6, 6.0, 2.0, 1.0, 0.0)]
    assert automatic_steps(few, (16, 16)) == 3, "the main model has its last step"
    assert automatic_steps(few[3:], (16, 16)) == 1
    co_models = co_runs(1)
    x = EULER.noise()
    mixed(EULER, x, co_models, AUTO)
    levels = [variance_exploding(sigma) for sigma in sigmas().tolist()]
    assert denoiser_of(co_models[0]).evaluations == automatic_steps(levels, SHAPE[-2:])


@pytest.mark.parametrize("sampler", KINDS)
def test_the_signature_is_kept_and_arguments_may_be_given_by_place_or_by_name(sampler: Sampler) -> None:
    sample, x, grid = amdm(sampler.func, co_runs(), steps=3, eta=0.2), sampler.noise(), sampler.grid()
    assert inspect.signature(sample) == inspect.signature(sampler.func)
    assert (sample.__name__, sample.__doc__) == (sampler.func.__name__, sampler.func.__doc__)
    model, results = sampler.model(Denoiser()), []
    for args, kwargs in (((model, x, *grid.values()), {}), ((), {"model": model, "x": x, **grid})):
        torch.manual_seed(5)
        results.append(sample(*args, **kwargs, disable=True))
    assert torch.equal(*results)
    assert torch.equal(results[0], mixed(sampler, x, co_runs(), eta=0.2))


@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS])
@pytest.mark.parametrize("sampler", FIXED)
def test_the_callback_hears_of_every_step_of_the_whole_grid_once_and_in_order(sampler: Sampler, steps: int) -> None:
    heard: list[dict] = []
    alone: list[dict] = []
    mixed(sampler, sampler.noise(), co_runs(), steps, callback=heard.append)
    plain(sampler, sampler.noise(), callback=alone.append)
    for said, wanted in zip(heard, alone, strict=True):
        assert said.keys() >= wanted.keys()
        assert (said["i"], said.get("sigma")) == (wanted["i"], wanted.get("sigma"))
        assert said["denoised"].shape == said["x"].shape == SHAPE


@pytest.mark.parametrize("sampler", KINDS)
def test_extra_arguments_reach_the_main_model_in_every_evaluation(sampler: Sampler) -> None:
    main, co_models = Denoiser(), co_runs()
    sampler.run(sampler.model(main), sampler.noise(), wrapped(co_models, 3), extra_args={"cond": "a red ball"})
    assert main.extras == [{"cond": "a red ball"}] * main.evaluations
    assert not any(extra for co in co_models for extra in denoiser_of(co).extras)


@pytest.mark.parametrize("sampler", EVERY)
@pytest.mark.parametrize("correction", ["relative", "paper"])
def test_nothing_is_modified_in_place(sampler: Sampler, correction: str) -> None:
    class Rude(nn.Module):
        """A co-model that overwrites what it is given."""

        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            x.mul_(0.5)
            sigma.zero_()
            return x

    x, grid = sampler.noise(), sampler.grid()
    kept, kept_grid = x.clone(), {name: torch.as_tensor(value).clone() for name, value in grid.items()}
    polite = mixed(sampler, x, co_runs(), correction=correction)
    assert torch.equal(x, kept)
    mixed(sampler, x, [CoRun(Rude(), 0.5)], correction=correction, **grid)
    assert torch.equal(x, kept)
    assert all(torch.equal(torch.as_tensor(grid[name]), kept_grid[name]) for name in grid)
    beside = mixed(sampler, x, [*co_runs(), CoRun(Rude(), 1e-12, 0.0)], correction=correction)
    close(beside, polite, 1e-3)


@pytest.mark.parametrize("sampler", EVERY)
def test_half_precision_latents_work(sampler: Sampler) -> None:
    if sampler.name in ("dpm_adaptive", "dpm_fast", "lms"):
        # without AMDM too their steps come out in float32 or fail, as their levels are float32
        expected: tuple[torch.dtype, ...] = (torch.float16, torch.float32)
    else:
        expected = (plain(sampler, sampler.noise(dtype=torch.float16)).dtype,)
    co_models = co_runs(noise="independent", seed=1)
    got = mixed(sampler, sampler.noise(dtype=torch.float16), co_models)
    assert got.dtype in expected
    assert torch.isfinite(got).all()
    assert denoiser_of(co_models[0]).latents[0].dtype == torch.float16
    if sampler.name in ("euler", "ddim", "dpmpp_2m"):
        exact = mixed(sampler, sampler.noise(), co_runs(noise="independent", seed=1))
        close(got.float(), exact, 0.1)


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
@pytest.mark.parametrize("steps", [1, 3, STEPS])
def test_churn_costs_no_evaluation_and_loses_none(name: str, steps: int) -> None:
    """s_churn raises a step's level, above that of the step before where the steps are small."""
    sampler, churn = SAMPLERS[name], {"s_churn": 0.4 * STEPS, "s_noise": 1.01}
    x, co_models = sampler.noise(), co_runs(1)
    mixed(sampler, x, co_models, steps, **churn)
    assert denoiser_of(co_models[0]).evaluations == steps
    close(mixed(sampler, x, [CoRun(Denoiser(), 0.5)], steps, eta=0.0, **churn), plain(sampler, x, **churn))
    assert (plain(sampler, x, **churn) - plain(sampler, x)).abs().max() > 1e-2


@pytest.mark.parametrize("s_churn", [0.5 * STEPS, 10.0 * STEPS])
def test_churn_beyond_its_most_is_known_too(s_churn: float) -> None:
    """k-diffusion raises a level by a factor of sqrt(2) at most, whatever s_churn is."""
    sampler, co_models, main, heard = EULER, co_runs(1), Denoiser(), []
    mixing = wrapped(co_models, 5, on_mixed=lambda *said: heard.append(said))
    sampler.run(main, sampler.noise(), mixing, s_churn=s_churn)
    assert heard == [(number, 5) for number in range(1, 6)]
    shown, own = ([level[0].item() for level in denoiser.levels[:5]] for denoiser in (denoiser_of(co_models[0]), main))
    assert shown == pytest.approx(own, rel=1e-6)


def test_the_main_models_mean_is_that_of_the_level_it_was_evaluated_at() -> None:
    """s_churn raises the level before the evaluation; with eta = 1 the step ends on the posterior mean itself."""
    sampler, main, levels = EULER, Denoiser(), sigmas(dtype=torch.float64)[2:4]
    x = randn(SHAPE, 1) * levels[0]
    got = sampler.run(main, x, wrapped(co_runs(1), 1, eta=1.0), sigmas=levels, s_churn=0.3)
    raised, latent = main.levels[0][0], main.latents[0]
    denoised = Denoiser()(latent, main.levels[0])
    assert raised > 1.2 * levels[0]
    close(got, denoised + (levels[1] / raised) ** 2 * (latent - denoised), 1e-9)


@pytest.mark.parametrize("sampler", KINDS)
def test_modules_and_plain_callables_are_the_same(sampler: Sampler) -> None:
    module = sampler.model(Denoiser())
    inner = getattr(module, "inner_model", None)

    class Plain:
        inner_model = inner

        def __call__(self, x: Tensor, level: Tensor, **extra: Any) -> Tensor:
            return module(x, level, **extra)

    results = [sampler.run(model, sampler.noise(), wrapped(co_runs(), 3)) for model in (module, Plain())]
    assert torch.equal(*results)
    if sampler.kind == "sigmas":
        bare = sampler.run(lambda x, sigma: module(x, sigma), sampler.noise(), wrapped(co_runs(), 3))
        assert torch.equal(results[0], bare)


def test_a_plain_callables_attributes_can_be_read_and_set_through_the_stand_in() -> None:
    """The WebUI's samplers do both on the denoiser they are given."""

    def func(
        model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Tensor:
        model.last_level = sigmas[-1].item() + model.offset
        return EULER.func(model, x, sigmas, disable=True)

    model = type("Model", (), {"__call__": lambda self, x, sigma: x / 2, "offset": 1.0})()
    amdm(func, co_runs(), steps=3)(model, EULER.noise(), sigmas())
    assert model.last_level == 1.0


class EndedError(Exception):
    """Raised in the middle of a run."""


def failing(denoiser: Denoiser, after: int) -> Denoiser:
    """`denoiser`, whose evaluation number `after` fails."""
    forward = denoiser.forward

    def fail(*args: Any, **kwargs: Any) -> Tensor:
        if denoiser.evaluations >= after:
            raise EndedError
        return forward(*args, **kwargs)

    denoiser.forward = fail  # type: ignore[method-assign]
    return denoiser


@pytest.mark.parametrize("where", ["nowhere", "main", "main later", "co-model", "callback", "still_mixing"])
@pytest.mark.parametrize("sampler", KINDS)
def test_no_hook_is_left_behind(sampler: Sampler, where: str) -> None:
    def ended(*_: Any) -> bool:
        raise EndedError

    model, co_models = sampler.model(Denoiser()), co_runs()
    more: dict[str, Any] = {}
    if where.startswith("main"):
        model = sampler.model(failing(Denoiser(), 4 if where == "main later" else 1))
    if where == "co-model":
        co_models[1] = CoRun(failing(Denoiser(101), 1), 0.5)
    if where == "callback":
        more["callback"] = ended
    stopping = {"still_mixing": ended} if where == "still_mixing" else {}
    before = {module: dict(module._forward_hooks) for module in model.modules()}
    if where == "nowhere":
        sampler.run(model, sampler.noise(), wrapped(co_models, 3))
    else:
        with pytest.raises(EndedError):
            sampler.run(model, sampler.noise(), wrapped(co_models, 3, **stopping), **more)
    assert {module: dict(module._forward_hooks) for module in model.modules()} == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_other_hooks_stay_and_see_every_main_evaluation() -> None:
    model, seen = Denoiser(), []
    model.register_forward_hook(lambda module, args, output: seen.append(1))
    SAMPLERS["heun"].run(model, SAMPLERS["heun"].noise(), wrapped(co_runs(), 3))
    assert len(seen) == model.evaluations == 2 * STEPS - 1
    assert len(model._forward_hooks) == 1


@pytest.mark.parametrize("stop", [0, 1, 2])
@pytest.mark.parametrize("sampler", ONE_PIECE)
def test_once_still_mixing_says_no_the_main_model_goes_on_alone(sampler: Sampler, stop: int) -> None:
    """As if K had been the steps that were done till then."""
    co_models, x, asked = co_runs(), sampler.noise(), itertools.count()
    got = mixed(sampler, x, co_models, 5, still_mixing=lambda: next(asked) < 2 * stop)
    assert [denoiser_of(co).evaluations for co in co_models] == [stop] * len(co_models)
    assert torch.equal(got, mixed(sampler, x, co_runs(), stop))


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_nothing_is_asked_after_a_no(stop: int) -> None:
    """Not even where the answer would be yes again: the main model is alone to the end."""
    asked: list[int] = []
    co_models = co_runs()

    def still_mixing() -> bool:
        asked.append(len(asked))
        return len(asked) != stop + 1

    mixed(EULER, EULER.noise(), co_models, 5, still_mixing=still_mixing)
    assert len(asked) == stop + 1
    assert [denoiser_of(co).evaluations for co in co_models] == [(stop + 1) // 2] * len(co_models)


@pytest.mark.parametrize("sampler", ONE_PIECE)
def test_a_no_while_the_co_models_are_run_drops_what_they_gave(sampler: Sampler) -> None:
    """An interrupted co-model's prediction may be anything."""
    co_models, x = co_runs(), sampler.noise()
    got = mixed(sampler, x, co_models, 3, still_mixing=lambda: denoiser_of(co_models[0]).evaluations == 0)
    assert torch.equal(got, plain(sampler, x))
    assert denoiser_of(co_models[0]).evaluations == 1


@pytest.mark.parametrize("fails", [1, 2])
@pytest.mark.parametrize("at", ["evaluation", "mix"])
def test_an_error_that_is_survived_leaves_the_main_model_alone_from_then_on(at: str, fails: int) -> None:
    """As if K had been the steps that were done till then; an error that is not is the sampler's."""
    sampler, x = EULER, EULER.noise()
    survived: list[Exception] = []
    calls = itertools.count(1)

    def mix(main: Tensor, other: Tensor, share: Any) -> Tensor:
        if next(calls) == fails:
            raise EndedError
        return slerp(main, other, share)

    def once(answer: bool) -> Tensor:
        co = Denoiser(100)
        model = failing(co, fails - 1) if at == "evaluation" else co
        rule = {"mix": mix} if at == "mix" else {}

        def survives(error: Exception) -> bool:
            survived.append(error)
            return answer

        return mixed(sampler, x, [CoRun(model, 0.5, 0.0)], 4, eta=0.0, survives=survives, **rule)

    got = once(True)
    assert torch.equal(got, mixed(sampler, x, [CoRun(Denoiser(100), 0.5, 0.0)], fails - 1, eta=0.0))
    assert [type(error) for error in survived] == [EndedError]
    calls = itertools.count(1)
    with pytest.raises(EndedError):
        once(False)


def test_a_sampler_of_no_known_kind_is_refused_by_name() -> None:
    def sample_mystery(model: Any, x: Tensor, schedule: Tensor) -> Tensor:
        return x

    sample, x = amdm(sample_mystery, co_runs()), torch.zeros(SHAPE)
    with pytest.raises(TypeError, match="sample_mystery"):
        sample(Denoiser(), x, schedule=sigmas())
    assert amdm(sample_mystery, co_runs(), steps=0)(Denoiser(), x, sigmas()) is x, "off must not look at it"


def test_a_sampler_may_take_more_keywords_than_it_names() -> None:
    seen = []

    def sample_open(model: Any, x: Tensor, sigmas: Tensor, **kwargs: Any) -> Tensor:
        seen.append(kwargs.pop("option"))
        return EULER.func(model, x, sigmas, **kwargs)

    got = amdm(sample_open, co_runs(), steps=3, eta=0.3)(Denoiser(), EULER.noise(), sigmas(), option=4, disable=True)
    assert torch.equal(got, mixed(EULER, EULER.noise(), co_runs()))
    assert set(seen) == {4}


def sample_by_attribute(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, disable: Any = None, noise_sampler: Any = None
) -> Any:
    tree = k_diffusion.sampling.BrownianTreeNoiseSampler
    noise_sampler = noise_sampler or tree(x, sigmas[sigmas > 0].min(), sigmas.max())
    return DPMPP_3M(model, x, sigmas, noise_sampler=noise_sampler, disable=disable)


class Delegate:
    """A sampler that is an object."""

    def __call__(self, model: Any, x: Tensor, sigmas: Tensor, **kwargs: Any) -> Tensor:
        return DPMPP_3M(model, x, sigmas, **kwargs)


@pytest.mark.parametrize("steps", [2, 3, 4])
@pytest.mark.parametrize(
    "func",
    [
        functools.partial(DPMPP_3M, eta=1.0),
        Delegate(),
        lambda *args, **kwargs: DPMPP_3M(*args, **kwargs),
        sample_by_attribute,
    ],
    ids=["partial", "object", "closure", "attribute"],
)
def test_samplers_written_otherwise_draw_the_same(func: Callable[..., Tensor], steps: int) -> None:
    """Short schedules, where a sampler cut into steps would lose its history or its noise."""
    levels, x = sigmas(4), SIGMA_MAX * randn(SHAPE, 1).float()

    def run(sampler: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(5)
        return amdm(sampler, co_runs(1), steps=steps, eta=0.1)(Denoiser(), x, levels, disable=True)

    assert torch.equal(run(func), run(DPMPP_3M))


def test_an_evaluation_of_a_latent_of_another_size_is_the_main_models_own() -> None:
    """Samplers of the SMEA kind look at the latent in half its size within a step."""
    seen: list[bool] = []

    def sample_halved(model: Any, x: Tensor, sigmas: Tensor, disable: Any = None) -> Tensor:
        def halved(latent: Tensor, sigma: Tensor) -> Tensor:
            small = latent[..., ::2, ::2].contiguous()
            seen.append(torch.equal(model(small, sigma), Denoiser()(small, sigma)))
            return model(latent, sigma)

        return EULER.func(halved, x, sigmas, disable=True)

    x, co_models = EULER.noise(), co_runs()
    got = amdm(sample_halved, co_models, steps=3, eta=0.3)(Denoiser(), x, sigmas())
    assert torch.equal(got, mixed(EULER, x, co_runs()))
    assert all(seen) and [denoiser_of(co).evaluations for co in co_models] == [3, 3]


@pytest.mark.parametrize("main", [10.0, 4519.0, SIGMA_MAX, SIGMA_MAX * 1.001, SIGMA_MAX * 1.004])
def test_no_model_is_shown_a_level_above_its_own_highest(main: float) -> None:
    """The latent is scaled along, so that its noise is that of the level it is shown at.

    Schedules are planned by tables and powers: some thousandths above, a level is shown as it is.
    """
    levels = torch.tensor([main, 8.0, 1.0, 0.0])
    x = levels[0] * randn(SHAPE, 1).float()
    co_models = [CoRun(Denoiser(100), 0.5, sigma_max=SIGMA_MAX), CoRun(Denoiser(101))]
    mixed(EULER, x, co_models, 3, eta=0.0, sigmas=levels)
    shown = min(main, SIGMA_MAX) if main > SIGMA_MAX * 1.01 else main
    capped, free = (denoiser_of(co) for co in co_models)
    assert [level[0].item() for level in capped.levels] == pytest.approx([shown, 8.0, 1.0])
    assert free.levels[0][0] == levels[0]
    close(capped.latents[0], x * (shown / main), 1e-3)
    assert torch.equal(capped.latents[0], x) == (shown == main)
    close(capped.latents[1], free.latents[1], 1e-3)


def test_gamma_may_run_to_another_value() -> None:
    """Of 1 and 0 only the first step's is the co-model's own; with K = 1 there is no way to go."""
    x = EULER.noise()
    shares = [CoRun(Denoiser(), 0.2, gamma_end=0.8).share(k, 4) for k in range(4)]
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert CoRun(Denoiser(), 0.2, gamma_end=0.8).share(0, 1) == 0.2
    same = [CoRun(Denoiser(100), 0.4, gamma_end=end) for end in (None, 0.4)]
    assert torch.equal(*(mixed(EULER, x, [co], 4) for co in same))
    falling, first = CoRun(Denoiser(100), 1.0, gamma_end=0.0), CoRun(Denoiser(100), 1.0)
    close(mixed(EULER, x, [falling], 2, eta=0.0), mixed(EULER, x, [first], 1, eta=0.0))
    mains = [Denoiser(), Denoiser()]
    EULER.run(mains[0], x)
    EULER.run(mains[1], x, wrapped([CoRun(Denoiser(100), 0.0, gamma_end=1.0)], 3, eta=0.5))
    assert torch.equal(mains[0].latents[1], mains[1].latents[1]), "a share of 0 leaves the first step alone"
    assert (mains[0].latents[2] - mains[1].latents[2]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", KINDS)
def test_outside_its_region_a_models_first_step_changes_nothing(sampler: Sampler) -> None:
    region = torch.zeros(1, 1, *SHAPE[-2:])
    region[..., :2] = 1.0
    seen = []
    for co_models in ([], [CoRun(Denoiser(100), 0.6, 0.2, region=region)]):
        main = Denoiser()
        sampler.run(sampler.model(main), sampler.noise(), wrapped(co_models, 1, eta=0.2))
        seen.append(main.latents[1])
    if sampler.kind != "range":
        close(seen[0][..., 2:], seen[1][..., 2:], 1e-5)
    assert (seen[0][..., :2] - seen[1][..., :2]).abs().max() > 1e-3


def test_where_a_picture_is_known_nothing_is_mixed() -> None:
    """Inpainting: the known part of the main model's prediction stands, bit for bit."""
    within = torch.zeros(1, 1, *SHAPE[-2:], dtype=torch.bool)
    within[..., 1:] = True
    seen: list[Tensor] = []
    heard: list[dict] = []
    model = Denoiser()
    model.register_forward_hook(lambda module, args, output: seen.append(output))
    EULER.run(model, EULER.noise(), wrapped(co_runs(), STEPS, eta=0.3, within=within), callback=heard.append)
    for own, said in zip(seen, heard, strict=True):
        assert torch.equal(own[..., :1], said["denoised"][..., :1])
        assert (own[..., 1:] - said["denoised"][..., 1:]).abs().max() > 1e-4


def test_two_threads_may_run_on_one_module() -> None:
    def run(model: nn.Module, seed: int) -> Tensor:
        x = SIGMA_MAX * randn(SHAPE, seed).float()
        return amdm(EULER.func, co_runs(1), steps=5, eta=0.1)(model, x, sigmas(), disable=True)

    class Slow(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            time.sleep(0.001)
            return super().forward(x, sigma)

    shared, wanted = Slow(), [run(Denoiser(), seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: run(shared, seed), range(4)))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted))
    assert not shared._forward_hooks


def test_a_co_model_may_run_a_sampler_of_its_own_on_the_main_module() -> None:
    def nested(main: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        func = amdm(EULER.func, co_runs(1), steps=1)
        return lambda x, sigma: func(main, x, torch.stack([sigma[0], sigma[0] * 0]), disable=True)

    main, x = Denoiser(), EULER.noise()
    sample, apart = (amdm(EULER.func, [CoRun(nested(module), 0.5)], steps=3) for module in (main, Denoiser()))
    assert torch.equal(sample(main, x, sigmas(), disable=True), apart(Denoiser(), x, sigmas(), disable=True))
    assert not main._forward_hooks


def test_no_graph_is_built() -> None:
    """Nothing that comes out asks for gradients, whatever the models' weights do."""
    weight = nn.Parameter(torch.ones(()))
    main, other = (lambda x, sigma: weight * Denoiser()(x, sigma)), (lambda x, sigma: weight * Denoiser(100)(x, sigma))
    got = amdm(lambda model, x, sigmas: model(x, sigmas[:1].expand(len(x))), [CoRun(other)], steps=1)(
        main, EULER.noise(), sigmas()
    )
    assert not got.requires_grad


@pytest.mark.parametrize("sampler", [pytest.param(SAMPLERS[name], id=name) for name in ("euler", "heun", "ddim")])
def test_an_answer_of_nan_ends_the_run_in_its_own_step(sampler: Sampler) -> None:
    class Broken(Denoiser):
        def forward(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            found = super().forward(x, sigma)
            return found if self.evaluations < 2 else found / 0

    def heard() -> None:
        raise RuntimeError("heard")

    main, broken = Denoiser(), Broken(100)
    with pytest.raises(RuntimeError, match="heard"):
        sampler.run(sampler.model(main), sampler.noise(), wrapped([CoRun(broken, on_nan=heard)], evaluations=0))
    once = Denoiser()
    sampler.run(sampler.model(once), sampler.noise())
    assert broken.evaluations == 2 and main.evaluations < once.evaluations


def test_after_an_answer_of_nan_the_main_model_can_go_on_alone() -> None:
    """From the step on in which it was heard of, the picture is the main model's; unheard of it is an answer."""
    alive, x = [True], EULER.noise()
    co_model = CoRun(lambda x, sigma: x * math.nan, on_nan=alive.clear)
    got = mixed(EULER, x, [co_model], 3, eta=0.0, still_mixing=lambda: bool(alive))
    assert torch.equal(got, plain(EULER, x))
    assert mixed(EULER, x, [CoRun(lambda x, sigma: x * math.nan)], 3).isnan().any()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_difference_is_as_exact_as_the_main_models_latent(half: torch.dtype) -> None:
    """A co-model in half precision: its answer is rounded once, and what is made of it is not."""

    def rounded(x: Tensor, sigma: Tensor) -> Tensor:
        return Denoiser(100)(x, sigma).to(half)

    x = EULER.noise()
    found = mixed(EULER, x, [CoRun(rounded, 0.4)], STEPS, evaluations=1)
    exact = [CoRun(lambda x, sigma: rounded(x, sigma).float(), 0.4)]
    assert torch.equal(found, mixed(EULER, x, exact, STEPS, evaluations=1))
