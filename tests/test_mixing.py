"""From settings to a sampler: a slot becomes a co-run with the same numbers, and the settings reach `amdm` by name."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from lib_amdm.comodels import mixing
from lib_amdm.comodels.mixing import SlotRun, co_run, mixed
from lib_amdm.core.aggregation import CORRECTIONS
from lib_amdm.core.arguments import AUTO, NOISES, Mixing, Pass
from lib_amdm.core.co_model import private_seeds
from lib_amdm.core.levels import as_flow
from lib_amdm.core.plan import ESTIMATE_EVALUATIONS, EVALUATIONS, NOISY_EVALUATIONS
from lib_amdm.errors import AmdmError
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import AUTO as SETTINGS_AUTO
from lib_amdm.settings import THROUGH_PIXELS, CoModel, Settings, specs

SEEDS, SIZE = [11, 12], (8, 6)


def zero(x: Tensor, sigma: Tensor) -> Tensor:
    return torch.zeros_like(x)


shares = st.floats(0, 1)


@given(
    st.builds(
        CoModel,
        gamma=shares,
        gamma_end=st.none() | shares,
        eta=st.floats(0, 100),
        noise=st.sampled_from(["shared", "independent"]),
    ),
    st.integers(1, 10),
)
def test_a_slot_becomes_a_co_run_with_the_same_numbers(slot: CoModel, number: int) -> None:
    run = co_run(number, slot, SlotRun(zero), SEEDS, SIZE)
    assert (run.gamma, run.gamma_end, run.eta, run.noise) == (slot.gamma, slot.gamma_end, slot.eta, slot.noise)
    assert run.denoise is zero
    assert run.seed == private_seeds(SEEDS, number)
    assert run.has_share == slot.has_share
    assert (run.region, run.sigma_max, run.state_key) == (None, None, None)


@given(shares, shares)
def test_a_model_that_sees_the_estimate_has_a_share_of_at_least_gamma(gamma: float, end: float) -> None:
    run = co_run(1, CoModel(gamma=gamma, gamma_end=end, noise="estimate"), SlotRun(zero), SEEDS, SIZE)
    assert run.gamma_end is not None and gamma <= run.gamma <= 1 and end <= run.gamma_end <= 1
    # which decides whether ComfyUI, diffusers and the WebUIs run the slot at all
    assert run.has_share == CoModel(gamma=gamma, gamma_end=end).has_share


def test_gamma_a_half_is_four_fifths_through_the_estimate() -> None:
    run = co_run(1, CoModel(gamma=0.5, noise="estimate"), SlotRun(zero), SEEDS, SIZE)
    assert run.gamma == pytest.approx(0.794, abs=1e-3)


def test_a_small_gamma_is_a_small_share_through_the_estimate_too() -> None:
    run = co_run(1, CoModel(gamma=0.01, gamma_end=0.0, noise="estimate"), SlotRun(zero), SEEDS, SIZE)
    assert (run.gamma, run.gamma_end) == (pytest.approx(0.0227, abs=1e-4), 0.0)


@pytest.mark.parametrize(("guidance", "keeps"), [(1.0, False), (2.5, False), (4.0, True), (7.5, True)])
def test_with_strong_guidance_the_prediction_is_kept_of_a_model_that_sees_the_estimate(
    guidance: float, keeps: bool
) -> None:
    model = SlotRun(zero, guidance=guidance)
    assert co_run(1, CoModel(noise="estimate"), model, SEEDS, SIZE).keeps_prediction is keeps
    # a co-model that is the main model would no longer leave its picture alone
    assert not co_run(1, CoModel(), model, SEEDS, SIZE).keeps_prediction


def test_what_the_host_knows_of_the_model_is_handed_on() -> None:
    run = co_run(1, CoModel(), SlotRun(zero, 14.6, bool, form=as_flow), SEEDS, SIZE, main=15.0)
    assert (run.sigma_max, run.state_key, run.form) == (14.6, bool, as_flow)


@pytest.mark.parametrize("highest", [14.6, 10.0])
def test_what_neither_model_knows_is_shown_to_both(highest: float) -> None:
    assert co_run(1, CoModel(), SlotRun(zero, 14.6), SEEDS, SIZE, main=highest).sigma_max is None


def test_a_slots_answer_of_nan_fails_the_pass() -> None:
    class FoundError(Exception):
        pass

    def found() -> None:
        raise FoundError

    run = co_run(1, CoModel(), SlotRun(lambda x, sigma: x * float("nan"), on_nan=found), SEEDS, SIZE)
    with pytest.raises(FoundError):
        mixed(euler, Settings(steps=2), [run])(main, torch.ones(2, 4, *SIZE), torch.tensor([2.0, 1.0, 0.0]))


def test_a_region_becomes_a_map_over_the_latent_by_which_every_share_is_multiplied() -> None:
    run = co_run(1, CoModel(gamma=0.6, gamma_end=0.2, region="0 0 0.5 1"), SlotRun(zero), SEEDS, SIZE)
    expected = torch.zeros(1, 1, *SIZE)
    expected[..., :3] = 1
    assert run.region is not None and torch.equal(run.region, expected)
    torch.testing.assert_close(run.share(0, 3), 0.6 * expected)
    torch.testing.assert_close(run.share(2, 3), 0.2 * expected)


def test_a_slots_noise_is_its_own() -> None:
    seeds: list[int] = []
    for number in (1, 2):
        private = co_run(number, CoModel(), SlotRun(zero), SEEDS, SIZE).seed
        assert isinstance(private, Sequence)
        seeds += private
    assert len({*seeds, *SEEDS}) == 6


def test_a_mask_that_cannot_be_read_is_named_with_its_slot() -> None:
    with pytest.raises(AmdmError, match=r"^AMDM co-model 3: the mask cannot be read"):
        co_run(3, CoModel(mask="no picture"), SlotRun(zero), SEEDS, SIZE)


def test_the_settings_reach_amdm(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(steps=7, evaluations=3, eta=0.25, start=2, correction="paper")
    caught: list[Any] = []
    monkeypatch.setattr(mixing, "amdm", lambda *given: caught.extend(given))
    in_pass = Pass(nominal_steps=30)
    run: Any = "run"
    mixed(zero, settings, [run], in_pass)
    wanted = Mixing(steps=7, evaluations=3, eta=0.25, start=2, correction="paper")
    assert caught == [zero, ["run"], wanted, in_pass]


def field(kind: type, name: str) -> Any:
    return next(spec for spec in specs(kind) if spec.name == name)


def test_the_settings_say_what_amdm_takes() -> None:
    assert SETTINGS_AUTO == AUTO
    assert field(CoModel, "noise").choices == (*NOISES, THROUGH_PIXELS)
    assert set(field(Settings, "correction").choices) <= CORRECTIONS.keys()
    automatic = f"auto = {EVALUATIONS}, {ESTIMATE_EVALUATIONS} if a co-model is run through pixels, or"
    assert f"{automatic} {NOISY_EVALUATIONS} for samplers" in field(Settings, "evaluations").help


def euler(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    for sigma, after in pairwise(sigmas):
        x = x + (x - model(x, sigma.expand(len(x)))) / sigma * (after - sigma)
    return x


def main(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1 + sigma.view(-1, 1, 1, 1) ** 2)


def drawn(settings: Settings, *slots: CoModel) -> tuple[Tensor, list[float]]:
    """The picture, and the noise levels at which the first co-model was evaluated."""
    levels: list[float] = []

    def co_model(x: Tensor, sigma: Tensor) -> Tensor:
        levels.append(sigma[0].item())
        return torch.full_like(x, 2.0)

    runs = [co_run(n, slot, SlotRun(co_model if n == 1 else zero), SEEDS, SIZE) for n, slot in enumerate(slots, 1)]
    x = 5 * torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    return mixed(euler, settings, runs)(main, x, torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.0])), levels


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"steps": 5, "evaluations": 0}, 5),
        ({"steps": 5}, 4),
        ({"steps": 3}, 3),
        ({"steps": 6, "evaluations": 2}, 2),
        ({"evaluations": 0}, 5),  # a latent this small is mixed to the last step but one
        ({"steps": 0}, 0),
    ],
)
def test_a_co_model_is_evaluated_as_often_as_the_settings_say(given: dict[str, Any], count: int) -> None:
    _, levels = drawn(Settings(**given), CoModel())
    assert len(levels) == count
    assert levels == sorted(levels, reverse=True)
    assert levels[:1] == [5.0][:count], "the first step is always among them"


def test_outside_its_region_a_model_says_nothing() -> None:
    settings = Settings(steps=6, evaluations=0)
    alone, _ = drawn(settings, CoModel(gamma=0.0))
    left = Image.new("L", (SIZE[1], SIZE[0]), 0)
    left.paste(255, (0, 0, 3, SIZE[0]))
    for slot in (CoModel(gamma=1.0, region="0 0 0.5 1"), CoModel(gamma=1.0, mask=as_text(left))):
        found, _ = drawn(settings, slot)
        assert torch.equal(found[..., 3:], alone[..., 3:])
        torch.testing.assert_close(found[..., :3], torch.full_like(found[..., :3], 2.0))
