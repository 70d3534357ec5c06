"""Co-models' shares, their schedules and regions, on a real WebUI."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .probed import STEPS, Probed, distance, mirrored, settings, slot
from .test_features import INPAINT, right_half

CLOSE = 1e-4
LEFT = "0 0 0.5 1"


def as_base64(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


# how often


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC"])
@pytest.mark.parametrize("evaluations", [1, 3])
def test_the_co_model_is_evaluated_as_often_as_asked(probed: Probed, sampler: str, evaluations: int) -> None:
    told = settings(steps=STEPS, evaluations=evaluations, eta=0)
    assert probed.draw(told, sampler_name=sampler).report["co_models"] == [evaluations]


@pytest.mark.parametrize(("sampler", "count"), [("Euler", 4), ("Euler a", 7)])
def test_by_default_it_goes_by_the_samplers_noise(probed: Probed, sampler: str, count: int) -> None:
    drawn = probed.draw({"enabled": True, "steps": 10, "co_models": [slot()]}, sampler_name=sampler, steps=12)
    assert drawn.report["co_models"] == [count]


def test_by_default_models_are_mixed_and_the_infotext_says_so(probed: Probed) -> None:
    drawn = probed.draw({"enabled": True, "co_models": [slot()]}, steps=20)
    assert drawn.report["co_models"] == [4]
    assert "AMDM steps: auto" in drawn.infotext
    assert distance(probed.draw(None, infotext=drawn.infotext, steps=20).latent, drawn.latent) == 0


@pytest.mark.parametrize("whose", ["slot", "main"])
@pytest.mark.parametrize("text", ["[a red square:a blue circle:3]", "a dog AND [a red:a blue:3] circle :0.6"])
def test_a_schedule_has_the_difference_taken_again(probed: Probed, whose: str, text: str) -> None:
    told = settings(slot(prompt=text if whose == "slot" else "a square"), steps=STEPS, evaluations=1, eta=0)
    drawn = probed.draw(told, prompt="a circle" if whose == "slot" else text)
    assert drawn.report["co_models"] == [2]


@pytest.mark.parametrize("text", ["[a red square:a blue circle:3]", "a dog AND [a red:a blue:3] circle :0.6"])
def test_the_mirror_of_a_schedule_with_few_evaluations(probed: Probed, text: str) -> None:
    plain, mirror = (probed.draw(amdm, prompt=text) for amdm in (None, mirrored(evaluations=2)))
    assert distance(mirror.latent, plain.latent) < CLOSE


# how much


def test_gamma_may_run_to_another_value(probed: Probed) -> None:
    def draw(**share: Any) -> np.ndarray:
        return probed.draw(settings(slot(**share), steps=STEPS, eta=0)).latent

    steady = draw(gamma=0.5)
    assert distance(draw(gamma=0.5, gamma_end=0.5), steady) == 0
    assert distance(draw(gamma=0.5, gamma_end=0), steady) > 1e-3
    assert distance(draw(gamma=0, gamma_end=0.5), draw(gamma=0.5, gamma_end=0)) > 1e-3


# where


def test_a_region_of_everything_is_no_region(probed: Probed) -> None:
    def draw(**region: Any) -> np.ndarray:
        return probed.draw(settings(slot(**region), steps=STEPS)).latent

    everywhere = draw()
    white = as_base64(np.full((64, 64), 255, dtype=np.uint8))
    for region in ({"region": "0 0 1 1"}, {"region": [[0, 0, 1, 1]], "feather": 0.3}, {"mask": white}):
        assert distance(draw(**region), everywhere) == 0


@pytest.mark.parametrize("region", [{"region": LEFT}, {"mask": as_base64(255 - right_half())}], ids=["box", "mask"])
def test_outside_its_region_one_step_changes_nothing(probed: Probed, region: dict) -> None:
    """A single step of Euler is the prediction itself, so nothing else can carry the change over."""
    plain, drawn = (
        probed.draw(amdm, steps=1).latent for amdm in (None, settings(slot(gamma=1, **region), steps=1, eta=0.3))
    )
    half = plain.shape[-1] // 2
    assert distance(drawn[..., half:], plain[..., half:]) < 1e-5
    assert distance(drawn[..., :half], plain[..., :half]) > 1e-2


def test_regions_that_do_not_meet_do_not_disturb_each_others_first_step(probed: Probed) -> None:
    slots = slot("beta", region=LEFT), slot("gamma", region="0.5 0 1 1")
    both, left, right = (
        probed.draw(settings(*used, steps=1, eta=0), steps=1).latent for used in (slots, slots[:1], slots[1:])
    )
    half = both.shape[-1] // 2
    assert distance(both[..., :half], left[..., :half]) < 1e-5
    assert distance(both[..., half:], right[..., half:]) < 1e-5


def test_an_inpaintings_known_part_stays_known(probed: Probed) -> None:
    plain, drawn = (probed.draw(amdm, **INPAINT) for amdm in (None, settings(slot(), steps=150, eta=0.3)))
    known = right_half() == 0
    assert np.array_equal(plain.picture[known], drawn.picture[known])
    assert distance(drawn.latent, plain.latent) > 1e-3


def test_the_infotext_restores_shares_and_regions(probed: Probed) -> None:
    told = slot(gamma=0.3, gamma_end=0.7, region="0 0 0.5 1\n0.5 0.5 1 1", feather=0.1)
    drawn = probed.draw(settings(told, steps=STEPS, evaluations=2))
    assert distance(probed.draw(None, infotext=drawn.infotext).latent, drawn.latent) == 0


# levels that a model does not know


def test_an_eps_model_beside_a_v_model_with_zero_terminal_snr(probed: Probed) -> None:
    """At the first level, some 4500, an eps model's answer is anything; it is shown its own highest instead."""

    def draw(amdm: dict | None) -> np.ndarray:
        return probed.draw(
            amdm, checkpoint="vpred", override_settings={"sd_noise_schedule": "Zero Terminal SNR"}
        ).latent

    plain, drawn = draw(None), draw(settings(slot("beta"), steps=STEPS, eta=0))
    assert np.abs(drawn).max() < 3 * np.abs(plain).max()
    assert distance(drawn, plain) > 1e-3
