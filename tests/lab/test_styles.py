"""Two styles: they are drawn and judged as they are called, and each row draws with the models that it names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("amdm_lab.studio.k_diffusion_parts")

from amdm_lab.bundled import CLIP_FOLDER, STYLE_JUDGE, WEIGHTS
from amdm_lab.cli import run
from amdm_lab.judges.scenes import Judge, StyleJudge, styled_scenes
from amdm_lab.shapes import styles
from amdm_lab.shapes.measuring import Bench, row_of, scene_of
from amdm_lab.shapes.rows import Studio
from amdm_lab.shapes.rules import handed
from amdm_lab.shapes.style_methods import BEST, CONTENT, STYLE, STYLE_METHODS
from amdm_lab.studio.checkpoint_file import CheckpointFile
from amdm_lab.studio.host import Standalone
from amdm_lab.training import networks, train
from amdm_lab.training.ldm_format import write_checkpoint
from amdm_lab.world.captions import caption
from amdm_lab.world.data import STOCK_SEED, pictures_of, stock_scenes
from amdm_lab.world.scenes import CELL, HOLE, SHAPES, STYLES, Scene, Thing, draw
from lib_amdm.errors import AmdmError

judged = pytest.mark.skipif(not STYLE_JUDGE.is_file(), reason="the judge of styles is not there")
SCENES = styled_scenes(3, np.random.default_rng(1))
SEEDS = [3, 4, 5]


def drawn(thing: Thing, seed: int = 3) -> np.ndarray:
    """The cell of a thing on a plain background, without the seed's shift of the place."""
    return draw(Scene((thing, None, None, None), "plain"), np.random.default_rng(seed))[:CELL, :CELL]


@pytest.mark.parametrize("shape", SHAPES)
def test_styles_differ_in_the_hole_alone(shape: str) -> None:
    pictures = {style: drawn(Thing(shape, "red", style)) for style in ("filled", "pierced")}
    changed = np.abs(pictures["filled"] - pictures["pierced"]).max(-1) > 0.01
    down, across = np.nonzero(changed)
    assert 0.5 * np.pi * HOLE**2 < changed.sum() < 1.2 * np.pi * (HOLE + 1) ** 2
    assert np.ptp(down) <= 2 * HOLE + 1 and np.ptp(across) <= 2 * HOLE + 1
    background = pictures["pierced"][0, 0]
    middle = pictures["pierced"][int(down.mean()), int(across.mean())]
    np.testing.assert_allclose(middle, background, atol=1e-5)


def test_between_the_styles_is_between_them() -> None:
    pictures = [drawn(Thing("square", "black", style)) for style in STYLES]
    darkness = [picture[CELL // 2 - 2 : CELL // 2 + 2, CELL // 2 - 2 : CELL // 2 + 2].mean() for picture in pictures]
    assert darkness == sorted(darkness) and np.diff(darkness).min() > 0.1


def test_a_caption_does_not_tell_the_style_and_a_kept_scene_does() -> None:
    for scene in SCENES:
        assert caption(scene) == caption(scene.in_style("filled"))
        assert scene_of(row_of(scene)) == scene


def test_counts_tell_what_is_right_from_what_is_in_style() -> None:
    wanted = Scene((Thing("circle", "red"), Thing("cross", "blue"), None, Thing("square", "green")), "plain")
    seen = Scene(
        (Thing("circle", "red", "pierced"), Thing("cross", "white", "pierced"), None, Thing("square", "green")), "wavy"
    )
    found = {name: (int(had[0]), int(of[0])) for name, (had, of) in styles.counts([wanted], [seen]).items()}
    assert found == {"right": (2, 3), "style": (2, 3), "between": (0, 3), "both": (1, 3)}
    nothing = Scene((None,) * 4, "plain")
    assert all(had.sum() == 0 for had, _ in styles.counts([wanted], [nothing]).values())


@judged
def test_the_judge_is_right_on_fresh_drawings_and_the_bundled_one_sees_no_style() -> None:
    judge = StyleJudge.load()
    accuracy = judge.accuracy(count=150, seed=7)
    assert min(accuracy.values()) > 0.98, accuracy
    assert STYLE_JUDGE.stat().st_size < 400_000
    scenes = [scene.in_style("filled") for scene in SCENES]
    assert Judge.load()(pictures_of(scenes, np.random.default_rng(2))) == scenes


def test_a_training_learns_from_pierced_drawings_and_leaves_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (("UNET_BATCH", 2), ("STYLED_STEPS", 2), ("STYLED_STOCK", 4)):
        monkeypatch.setattr(train, name, value)
    train.PARTS[STYLE](tmp_path)
    places = ((tmp_path / "styled", STYLE), (WEIGHTS, CONTENT))
    file, bundled = (CheckpointFile(folder / f"{name}.safetensors", name) for folder, name in places)
    for part in ("text_encoder", "unet"):
        own, theirs = (getattr(each, part)(torch.float32).state_dict() for each in (file, bundled))
        assert all(torch.equal(own[key], theirs[key]) for key in own) == (part == "text_encoder")
    vae, _ = bundled.autoencoder(torch.float32)
    learned = torch.load(tmp_path / "latents-pierced.pt", weights_only=True)
    scenes = stock_scenes(4, "pierced")
    drawn = pictures_of(scenes, np.random.default_rng(STOCK_SEED + 1))
    with torch.no_grad():
        torch.testing.assert_close(learned.float(), vae.encode(drawn).latent_dist.mean, rtol=1e-2, atol=1e-2)


# the rows


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """The two checkpoints by their names, with random weights."""
    folder = tmp_path_factory.mktemp("styles")
    torch.manual_seed(0)
    vae, text_encoder = networks.new_vae(), networks.new_text_encoder()
    for name in (CONTENT, STYLE):
        write_checkpoint(
            folder / f"{name}.safetensors", networks.new_unet(), vae, text_encoder, 1.0, clip_folder=CLIP_FOLDER
        )
    networks.text_config().save_pretrained(folder / CLIP_FOLDER)
    return Studio(Standalone(folder), steps=4, cfg_scale=2.0)


def latents(studio: Studio, name: str) -> torch.Tensor:
    return STYLE_METHODS[name].draw(studio, SCENES[:1], SEEDS[:1]).latents


def test_every_row_draws_and_no_two_are_alike(studio: Studio) -> None:
    found = {name: latents(studio, name) for name in STYLE_METHODS}
    names = list(found)
    for i, name in enumerate(names):
        assert found[name].shape == (1, *networks.LATENT) and found[name].isfinite().all()
        assert not any(torch.allclose(found[name], found[other]) for other in names[:i]), name


def test_a_checkpoint_that_is_told_nothing_does_not_hear_the_scene(studio: Studio) -> None:
    """A style that alone counts draws from its negative prompt: the same whatever the scene is."""
    others = styled_scenes(1, np.random.default_rng(9))
    slot = replace(BEST.co_models[0], gamma=1.0)
    silent, heard = (
        replace(cast(Any, STYLE_METHODS[name].draw), settings=replace(BEST, evaluations=0, co_models=(slot,)))
        for name in ("amdm-untold", "amdm")
    )
    for method, same in ((silent, True), (heard, False)):
        one, other = (method(studio, scenes, SEEDS[:1]).latents for scenes in (SCENES[:1], others))
        assert torch.allclose(one, other, atol=1e-5) is same


def test_without_a_prompt_there_is_one_row_for_each_picture(studio: Studio) -> None:
    """A prompt that equals the negative one guides nowhere, so the second row would be the same."""
    rows: list[int] = []
    hook = studio.model(STYLE).unet.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    for name in ("amdm", "amdm-untold"):
        STYLE_METHODS[name].draw(studio, SCENES, SEEDS)
    hook.remove()
    assert rows == [6] * 4 + [3] * 4


def test_what_is_handed_on_was_begun_by_the_first(studio: Studio) -> None:
    """Handed on after the last step it is the first's picture; before, each is asked in its own steps."""

    def of(share: float) -> tuple[torch.Tensor, int, int]:
        result = handed(studio, SCENES[:1], SEEDS[:1], CONTENT, STYLE, share)
        return result.latents, result.evaluations, result.co_evaluations

    drawn, *counted = of(1.0)
    torch.testing.assert_close(drawn, latents(studio, "content"))
    assert counted == [4, 0]
    assert of(0.5)[1:] == (2, 2)


def test_the_command_names_what_to_train_where_there_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(AmdmError, match=f"amdm_lab train {STYLE}"):
        run("styles", ["--weights", str(tmp_path)])


@judged
def test_the_command_makes_a_table_with_a_row_for_each_method(studio: Studio, tmp_path: Path) -> None:
    bench = Bench(replace(studio, steps=2), StyleJudge.load(), pictures=4, folder=tmp_path)
    found = {name: bench.run(name, STYLE_METHODS[name]) for name in ("amdm", "merge")}
    lines = styles.table(found).splitlines()
    assert len(lines) == 2 + len(found)
    assert {file.stem for file in tmp_path.iterdir()} == set(found)
