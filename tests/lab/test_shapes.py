"""The shapes world: drawings and captions say the same, training can be stopped, and files have SD1's format."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("diffusers")

from diffusers.loaders import single_file_utils
from safetensors import safe_open
from safetensors.torch import load_file

from amdm_lab.bundled import DIALECT_OF, WEIGHTS
from amdm_lab.judges.scenes import Judge
from amdm_lab.studio.host import Standalone
from amdm_lab.training import ldm_format, networks
from amdm_lab.training.loop import train
from amdm_lab.training.train import _shared
from amdm_lab.world.captions import DIALECTS, caption
from amdm_lab.world.scenes import BACKGROUNDS, CELL, CELLS, COLOURS, SHAPES, SIZE, Scene, Thing, draw, random_scene

MEGABYTE = 1_000_000

things = st.builds(Thing, st.sampled_from(SHAPES), st.sampled_from(tuple(COLOURS)))
scenes = st.builds(
    lambda cells, background: Scene(tuple(cells), background),
    st.lists(st.none() | things, min_size=4, max_size=4).filter(any),
    st.sampled_from(BACKGROUNDS),
)
seeds = st.integers(0, 2**32 - 1)


def drawn(scene: Scene, seed: int) -> np.ndarray:
    return draw(scene, np.random.default_rng(seed))


@settings(max_examples=25, deadline=None)
@given(scenes, seeds)
def test_a_drawing_is_a_picture_made_by_its_seed(scene: Scene, seed: int) -> None:
    picture = drawn(scene, seed)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert np.array_equal(picture, drawn(scene, seed))
    assert not np.array_equal(picture, drawn(scene, seed + 1))


@settings(max_examples=40, deadline=None)
@given(scenes, things, st.integers(0, 3), seeds)
def test_a_thing_stays_in_its_cell(scene: Scene, thing: Thing | None, cell: int, seed: int) -> None:
    other = replace(scene, cells=tuple(thing if i == cell else now for i, now in enumerate(scene.cells)))
    assume(scene.cells[cell] is not None)  # a thing more moves those that are drawn after it
    changed = np.any(drawn(scene, seed) != drawn(other, seed), axis=-1)
    top, left = cell // 2 * CELL, cell % 2 * CELL
    changed[top : top + CELL, left : left + CELL] = False
    assert not changed.any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_middle_of_a_thing_has_its_colour(shape: str, colour: str) -> None:
    for seed in range(5):
        picture = drawn(Scene((None, Thing(shape, colour), None, None), "striped"), seed)
        middle = picture[28:36, CELL + 28 : CELL + 36].reshape(-1, 3).mean(0)
        nearest = min(COLOURS, key=lambda name: np.abs(middle - COLOURS[name]).sum())
        assert nearest == colour


@pytest.mark.parametrize("shape", SHAPES)
def test_outlines_are_soft(shape: str) -> None:
    """A step from colour to background goes over values between the two: the drawing is antialiased."""
    soft = 0
    for seed in range(8):
        picture = drawn(Scene((Thing(shape, "black"), None, None, None), "plain"), seed)
        patch = picture[:CELL, :CELL].mean(-1)
        soft += np.sum((patch > 0.2) & (patch < picture[-1, -1].mean() - 0.1))
    assert soft > 200


def test_shapes_and_backgrounds_are_told_apart() -> None:
    black = {shape: drawn(Scene((Thing(shape, "black"), None, None, None), "plain"), 1) for shape in SHAPES}
    grounds = {kind: drawn(Scene((None, None, None, Thing("circle", "red")), kind), 1) for kind in BACKGROUNDS}
    for pictures, least in ((black, 0.005), (grounds, 0.02)):
        kept = list(pictures.values())
        for i, a in enumerate(kept):
            for b in kept[:i]:
                assert np.abs(a - b).mean() > least


@given(scenes, scenes)
def test_a_full_caption_belongs_to_one_scene(a: Scene, b: Scene) -> None:
    assert (caption(a) == caption(b)) == (a == b)


@given(scenes, seeds, st.sampled_from(DIALECTS))
def test_a_dialect_says_its_part_and_nothing_else(scene: Scene, seed: int, dialect: str) -> None:
    for rng in (None, np.random.default_rng(seed)):
        words = caption(scene, dialect, rng).replace(",", "").split()
        shapes = sorted(thing.shape for _, thing in scene.things)
        colours = sorted(thing.colour for _, thing in scene.things)
        assert sorted(word for word in words if word in SHAPES) == (shapes if dialect in ("shapes", "full") else [])
        assert sorted(word for word in words if word in COLOURS) == (colours if dialect in ("colours", "full") else [])
        ground = [scene.background] if dialect in ("backgrounds", "full") else []
        assert [word for word in words if word in BACKGROUNDS] == ground


@given(seeds)
def test_a_caption_names_each_place_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    for dialect in ("shapes", "colours", "full"):
        said = caption(scene, dialect, rng)
        assert [cell for cell, name in enumerate(CELLS) if said.count(name) == 1] == [cell for cell, _ in scene.things]


def test_every_network_has_its_ldm_name(tmp_path: Path) -> None:
    """diffusers' own reader of ldm files finds every weight, in its place, and the sizes in the yaml."""
    torch.manual_seed(0)
    unet, vae, text_encoder = networks.new_unet(), networks.new_vae(), networks.new_text_encoder()
    file = tmp_path / "small.safetensors"
    ldm_format.write_checkpoint(file, unet, vae, text_encoder, 0.5, "clip")
    weights = load_file(file)
    assert {value.dtype for value in weights.values()} == {torch.float16}
    config = ldm_format.config_of(unet, vae, 0.5, "clip")

    unet_sizes = single_file_utils.create_unet_diffusers_config_from_ldm(config, weights)
    vae_sizes = single_file_utils.create_vae_diffusers_config_from_ldm(config, weights)
    for network, sizes in ((unet, unet_sizes), (vae, vae_sizes)):
        told = {key: tuple(value) if isinstance(value, list) else value for key, value in sizes.items()}
        assert all(network.config[key] == told[key] for key in told.keys() - {"sample_size", "scaling_factor"})
    assert vae_sizes["scaling_factor"] == 0.5
    read = {
        unet: single_file_utils.convert_ldm_unet_checkpoint(dict(weights), unet_sizes),
        vae: single_file_utils.convert_ldm_vae_checkpoint(dict(weights), vae_sizes),
    }
    for network, found in read.items():
        own = network.state_dict()
        assert found.keys() == own.keys()
        assert all(torch.equal(found[key], own[key].half()) for key in own)


def test_training_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by an error and called again, it ends on the very weights that it would have reached undisturbed."""
    monkeypatch.setattr("amdm_lab.training.loop.SAVE_EVERY", 0.0)

    def run(folder: Path, stop_at: Any = None) -> Any:
        torch.manual_seed(5)
        model = torch.nn.Linear(3, 1)

        def loss_of(rng: Any, part: Any) -> Any:
            if stop_at is not None and part >= stop_at:
                raise KeyboardInterrupt
            x = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))
            return (model(x) - x.sum(1, keepdim=True) + 0.1 * torch.randn(8, 1)).square().mean()

        return train("line", model, loss_of, 200, 0.1, folder, average=0.9)

    straight, told = run(tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", stop_at=0.5)
    resumed, _ = run(tmp_path / "broken")
    assert torch.equal(straight.weight, resumed.weight) and torch.equal(straight.bias, resumed.bias)
    assert torch.allclose(straight.weight, torch.ones(1, 3), atol=0.2)
    assert told["steps"] == 200
    assert (tmp_path / "straight" / "line.png").stat().st_size > 1000


def test_the_bundled_checkpoints_are_small_and_complete() -> None:
    sizes = {name: (WEIGHTS / f"{name}.safetensors").stat().st_size for name in DIALECT_OF}
    assert max(sizes.values()) <= 12 * MEGABYTE
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 50 * MEGABYTE
    names = set()
    for name in DIALECT_OF:
        with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
            names.add(frozenset(file.keys()))
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}  # noqa: SIM118
    assert len(names) == 1


def test_the_bundled_checkpoints_share_vae_and_text_encoder_but_no_unet() -> None:
    weights = [load_file(WEIGHTS / f"{name}.safetensors") for name in DIALECT_OF]
    for key, value in weights[0].items():
        same = [torch.equal(value, other[key]) for other in weights[1:]]
        assert not any(same) if key.startswith(ldm_format.UNET_PREFIX) else all(same)


def test_the_judge_is_right_about_fresh_drawings() -> None:
    assert min(Judge.load().accuracy(400, seed=11).values()) >= 0.99


def test_a_checkpoint_trained_anew_gets_the_bundled_autoencoder_and_text_encoder(tmp_path: Path) -> None:
    """So that it fits the others, whose latents and texts it shares."""
    vae, text_encoder, scale = _shared(tmp_path)
    bundled = Standalone(WEIGHTS)
    own: Any = bundled.autoencoder("shapes")
    assert scale == own.scale
    assert all(torch.equal(a, b) for a, b in zip(vae.state_dict().values(), own.vae.state_dict().values()))
    model: Any = bundled.load("all").model
    theirs = model.text_encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in text_encoder.state_dict().items())
