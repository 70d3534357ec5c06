"""The harness itself, on a WebUI without the extension: if one of these fails, no other test here means anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from . import checkpoints
from .webui_server import EXTENSION_NAME, WebUI, WebUIError

# the spread of a flat or black picture is 0, that of the small checkpoints' pictures about 58 of 255
CONTRAST = 20
DIFFERENT = 5
CHECKPOINTS = (*checkpoints.NAMES, checkpoints.PICKLED)


def draw(server: WebUI, **parameters: Any) -> np.ndarray:
    """One picture from a prompt."""
    return server.pixels(server.txt2img(**parameters))[0]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean distance of two pictures' pixels."""
    return float(np.abs(one.astype(float) - other.astype(float)).mean())


@pytest.fixture(scope="module")
def drawn(bare_webui: WebUI) -> np.ndarray:
    """The picture of the default request."""
    return draw(bare_webui)


def test_the_server_starts_without_an_error(bare_webui: WebUI) -> None:
    assert bare_webui.running
    assert bare_webui.errors() == []
    assert not (bare_webui.data / "extensions" / EXTENSION_NAME).exists()


def test_every_checkpoint_is_listed(bare_webui: WebUI) -> None:
    assert set(CHECKPOINTS) <= set(bare_webui.checkpoints())


def test_models_of_one_architecture_share_their_configuration(checkpoint_dir: Path) -> None:
    contents = {(checkpoint_dir / f"{name}.yaml").read_text() for name in ("alpha", "beta", "gamma")}
    assert len(contents) == 1


def test_a_picture_has_its_size_and_contrast(drawn: np.ndarray) -> None:
    assert drawn.shape == (64, 64, 3)
    assert drawn.std() > CONTRAST


def test_the_same_request_draws_the_same_bytes(bare_webui: WebUI, drawn: np.ndarray) -> None:
    assert np.array_equal(draw(bare_webui), drawn)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue circle"},
        {"negative_prompt": "a blue circle"},
        {"seed": 2},
        {"cfg_scale": 1},
        {"checkpoint": "beta"},
        {"checkpoint": "gamma"},
    ],
    ids=str,
)
def test_a_change_in_the_request_is_visible(bare_webui: WebUI, drawn: np.ndarray, change: dict[str, object]) -> None:
    assert difference(draw(bare_webui, **change), drawn) > DIFFERENT


def test_a_batch_equals_single_pictures(bare_webui: WebUI, drawn: np.ndarray) -> None:
    first, second = bare_webui.pixels(bare_webui.txt2img(batch_size=2))
    # the order of additions in a larger matrix product differs: a pixel value may round the other way
    assert np.abs(first.astype(int) - drawn).max() <= 1
    assert np.abs(second.astype(int) - draw(bare_webui, seed=2)).max() <= 1


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_draws(bare_webui: WebUI, name: str) -> None:
    before = len(bare_webui.log)
    picture = draw(bare_webui, checkpoint=name)
    assert picture.std() > CONTRAST
    assert difference(draw(bare_webui, checkpoint=name, prompt="a blue circle"), picture) > DIFFERENT
    assert bare_webui.errors(before) == []


def test_a_pickled_checkpoint_is_the_same_model(bare_webui: WebUI) -> None:
    pickled = draw(bare_webui, checkpoint=checkpoints.PICKLED)
    assert np.array_equal(pickled, draw(bare_webui, checkpoint="beta"))


def test_a_checkpoint_of_a_request_does_not_stay(bare_webui: WebUI, drawn: np.ndarray) -> None:
    draw(bare_webui, checkpoint="xl-alpha")
    assert np.array_equal(draw(bare_webui), drawn)


def test_a_chosen_checkpoint_stays(bare_webui: WebUI, drawn: np.ndarray) -> None:
    bare_webui.use_checkpoint("beta")
    try:
        assert difference(draw(bare_webui), drawn) > DIFFERENT
    finally:
        bare_webui.use_checkpoint("alpha")
    assert np.array_equal(draw(bare_webui), drawn)


def test_an_unknown_checkpoint_is_refused(bare_webui: WebUI) -> None:
    with pytest.raises(WebUIError, match="no checkpoint 'delta'"):
        bare_webui.txt2img(checkpoint="delta")


@pytest.mark.parametrize("name", ["alpha", "vpred", "xl-alpha"])
def test_every_sampler_draws(bare_webui: WebUI, name: str) -> None:
    before = len(bare_webui.log)
    samplers = [sampler["name"] for sampler in bare_webui.call("/sdapi/v1/samplers")]
    assert "Euler" in samplers
    flat = {}
    for sampler in samplers:
        contrast = draw(bare_webui, sampler_name=sampler, checkpoint=name).std()
        if not contrast > CONTRAST:
            flat[sampler] = contrast
    assert flat == {}
    assert bare_webui.errors(before) == []


def test_a_picture_is_the_start_of_img2img(bare_webui: WebUI, drawn: np.ndarray) -> None:
    answers = [bare_webui.img2img(drawn, denoising_strength=strength, seed=3) for strength in (0.1, 0.9)]
    little, much = (bare_webui.pixels(answer)[0] for answer in answers)
    assert little.std() > CONTRAST
    assert difference(little, much) > DIFFERENT


@pytest.mark.parametrize("name", ["alpha", "inpaint-alpha"])
def test_inpainting_keeps_what_is_not_masked(bare_webui: WebUI, drawn: np.ndarray, name: str) -> None:
    mask: np.ndarray = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    answer = bare_webui.img2img(
        drawn, checkpoint=name, mask=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False, seed=3
    )
    picture = bare_webui.pixels(answer)[0]
    assert np.array_equal(picture[:, :32], drawn[:, :32])
    assert difference(picture[:, 32:], drawn[:, 32:]) > DIFFERENT


def test_hires_fix_enlarges(bare_webui: WebUI) -> None:
    picture = draw(bare_webui, enable_hr=True, hr_scale=2, hr_upscaler="Latent", denoising_strength=0.7)
    assert picture.shape == (128, 128, 3)
    assert picture.std() > CONTRAST


@pytest.fixture(scope="module")
def second_webui(start_webui: Callable[..., WebUI]) -> WebUI:
    """A server of its own, with its page, for files which fail to load: they leave the WebUI's main model damaged."""
    return start_webui(extension=None, page=True)


def test_another_server_draws_the_same_bytes(second_webui: WebUI, drawn: np.ndarray) -> None:
    assert np.array_equal(draw(second_webui), drawn)


def test_the_page_is_served(second_webui: WebUI, bare_webui: WebUI) -> None:
    assert "gradio_config" in second_webui.get("/").text
    assert bare_webui.get("/").status_code == 404
    assert second_webui.errors() == []


@pytest.mark.parametrize("kind", ["truncated", "corrupt", "malicious"])
def test_a_bad_file_is_refused(second_webui: WebUI, checkpoint_dir: Path, tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "executed"
    path = second_webui.checkpoint_folder / f"{kind}{'.ckpt' if kind == 'malicious' else '.safetensors'}"
    if kind == "malicious":
        checkpoints.write_malicious(path, marker)
    else:
        write = checkpoints.write_truncated if kind == "truncated" else checkpoints.write_corrupt
        write(checkpoint_dir / "beta.safetensors", path)
    before = len(second_webui.log)
    second_webui.refresh_checkpoints()
    with pytest.raises(WebUIError, match="500"):
        second_webui.txt2img(checkpoint=kind)
    assert second_webui.errors(before) != []
    assert not marker.exists()
