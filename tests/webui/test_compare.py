"""Compare: with and without at one click, on the real WebUI."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .probed import Drawn, Probed, settings, slot
from .test_networks import lora  # noqa: F401 -- a fixture
from .webui_server import STYLE

PROMPT = {"prompt": "a red square", "seed": 3}
OF_ITS_OWN = {"prompt": "a blue circle", "negative_prompt": "red"}


def compared(*slots: dict[str, Any], **main: Any) -> dict[str, Any]:
    return settings(*slots, compare=True, **main)


def same_picture(drawn: np.ndarray, other: np.ndarray) -> bool:
    off = np.abs(drawn.astype(int) - other.astype(int)).max()
    return drawn.shape == other.shape and off <= 2


def parts(drawn: Drawn, count: int, models: int) -> tuple[list[np.ndarray], np.ndarray, list[list[np.ndarray]]]:
    """The usual pictures, the grid, and each model's alone."""
    assert len(drawn.pixels) == count + 1 + count * models
    assert len(drawn.info["infotexts"]) == len(drawn.pixels)
    singles = drawn.pixels[count + 1 :]
    return drawn.pixels[:count], drawn.pixels[count], [singles[n * count :][:count] for n in range(models)]


def test_each_model_alone_is_what_it_draws_without_amdm(probed: Probed) -> None:
    main, co = probed.draw(**PROMPT), probed.draw(checkpoint="beta", **PROMPT)
    together = probed.draw(settings(slot()), **PROMPT)
    usual, grid, alone = parts(probed.draw(compared(slot()), **PROMPT), 1, 2)
    assert np.array_equal(usual[0], together.picture)
    assert np.array_equal(alone[0][0], main.picture)
    assert np.array_equal(alone[1][0], co.picture)
    height, width = usual[0].shape[:2]
    assert grid.shape[0] > height and grid.shape[1] >= 3 * width
    assert np.array_equal(probed.draw(**PROMPT).picture, main.picture), "the main checkpoint is not back"


def test_what_is_written_is_what_each_really_is(probed: Probed) -> None:
    drawn = probed.draw(compared(slot(**OF_ITS_OWN, cfg_scale=2)), **PROMPT)
    together, _, main, co = drawn.info["infotexts"]
    assert "AMDM 1 checkpoint: beta" in together and "AMDM ran" in together
    assert "AMDM" not in main and "AMDM" not in co and "ompare" not in together
    assert "Model: alpha" in main and "Model: beta" in co
    assert co.startswith("a blue circle\nNegative prompt: red") and "CFG scale: 2" in co
    assert main.startswith("a red square")
    again = probed.draw(checkpoint="beta", seed=3, cfg_scale=2, **OF_ITS_OWN)
    assert np.array_equal(drawn.pixels[3], again.picture)


@pytest.mark.parametrize("batches", [{"batch_size": 2}, {"n_iter": 2}], ids=["size", "count"])
def test_a_batch_has_a_row_for_each_picture(probed: Probed, batches: dict[str, int]) -> None:
    main = probed.draw(**PROMPT, **batches)
    usual, grid, alone = parts(probed.draw(compared(slot()), **PROMPT, **batches), 2, 2)
    for picture, own in zip(alone[0], main.pixels):
        assert same_picture(picture, own)
    assert grid.shape[0] > 2 * usual[0].shape[0]


def test_hires_fix(probed: Probed) -> None:
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.6, **PROMPT}
    main, co = probed.draw(**hires), probed.draw(checkpoint="beta", **hires)
    usual, _, alone = parts(probed.draw(compared(slot()), **hires), 1, 2)
    assert usual[0].shape == main.picture.shape
    assert np.array_equal(alone[0][0], main.picture)
    assert np.array_equal(alone[1][0], co.picture)


def test_from_a_picture_with_a_mask(probed: Probed) -> None:
    init = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask: np.ndarray = np.zeros((64, 64, 3), dtype=np.uint8)
    mask[:, :32] = 255
    more = {"init": init, "mask": mask, "mask_blur": 4, "inpainting_fill": 1, "denoising_strength": 0.7, **PROMPT}
    main, co = probed.draw(**more), probed.draw(checkpoint="beta", **more)
    _, _, alone = parts(probed.draw(compared(slot()), **more), 1, 2)
    # the host draws a picture's latent from its distribution, each time another one
    assert same_picture(alone[0][0], main.picture)
    assert same_picture(alone[1][0], co.picture)


def test_the_main_checkpoint_as_a_co_model_with_words_of_its_own(probed: Probed) -> None:
    own = probed.draw(seed=3, **OF_ITS_OWN)
    _, _, alone = parts(probed.draw(compared(slot("main", **OF_ITS_OWN)), **PROMPT), 1, 2)
    assert np.array_equal(alone[1][0], own.picture)


def test_the_main_prompt_inside_a_models_own(probed: Probed) -> None:
    own = probed.draw(seed=3, prompt="a red square, blue", negative_prompt="grey")
    included = slot("main", prompt="{prompt}, blue", negative_prompt="grey")
    _, _, alone = parts(probed.draw(compared(included), **PROMPT), 1, 2)
    assert np.array_equal(alone[1][0], own.picture)


def test_the_styles_in_a_models_own_prompt(probed: Probed) -> None:
    name, style, of_negative = STYLE
    texts = {"prompt": "a blue circle", "negative_prompt": "grey"}
    written = [each.replace("{prompt}", text) for each, text in zip((style, of_negative), texts.values())]
    own = probed.draw(seed=3, **dict(zip(texts, written)))
    named = slot("main", **{box: f"{text}, {{style:{name}}}" for box, text in texts.items()})
    _, _, alone = parts(probed.draw(compared(named), **PROMPT), 1, 2)
    assert np.array_equal(alone[1][0], own.picture)


@pytest.mark.usefixtures("lora")
def test_each_model_alone_has_the_loras_that_act_on_it_together(probed: Probed) -> None:
    text, tag = PROMPT["prompt"], "<lora:strong:1>"
    request = {**PROMPT, "prompt": f"{text} {tag}"}
    of_beta, of_main = probed.draw(checkpoint="beta", **PROMPT), probed.draw(seed=3, prompt=f"a blue circle {tag}")
    others = slot("beta"), slot("main", prompt="a blue circle")
    _, _, alone = parts(probed.draw(compared(*others), **request), 1, 3)
    assert same_picture(alone[1][0], of_beta.picture)
    assert same_picture(alone[2][0], of_main.picture)
    with_own = probed.draw(checkpoint="beta", **{**PROMPT, "prompt": f"{text}{tag}"})
    _, _, alone = parts(probed.draw(compared(slot("beta", prompt=tag)), **PROMPT), 1, 2)
    assert same_picture(alone[1][0], with_own.picture)


def test_an_interrupt_ends_all(probed: Probed) -> None:
    drawn = probed.draw(compared(slot()), fault={"fault": "interrupt", "at": "main", "call": 2}, **PROMPT)
    assert len(drawn.pixels) == 1


def test_after_an_interrupt_the_grid_has_what_was_drawn_by_then(probed: Probed) -> None:
    together = probed.draw(settings(slot()), **PROMPT)
    in_the_second = {"fault": "interrupt", "at": "main", "call": together.report["unet"]["main"] + 2}
    drawn = probed.draw(compared(slot()), fault=in_the_second, **PROMPT)
    usual, grid, _ = drawn.pixels
    height, width = usual.shape[:2]
    assert np.array_equal(usual, together.picture)
    assert grid.shape[0] > height, "the captions"
    assert 2 * width <= grid.shape[1] < 3 * width
    assert len(drawn.info["infotexts"]) == 3


def test_off_nothing_is_compared(probed: Probed) -> None:
    assert len(probed.draw(settings(slot(), enabled=False, compare=True), **PROMPT).pixels) == 1
    assert len(probed.draw(settings(slot(), steps=0, compare=True), **PROMPT).pixels) == 1
