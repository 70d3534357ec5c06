"""The bundled adapters: real files for the real reader, told what a scene has, and idle at strength 0."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("amdm_lab.studio.k_diffusion_parts")

from amdm_lab.bundled import ADAPTERS, IMAGE_ADAPTER, IMAGE_ENCODER, LAYOUT_ADAPTER, WEIGHTS
from amdm_lab.cli import run
from amdm_lab.judges.scenes import Judge
from amdm_lab.shapes import boxes
from amdm_lab.shapes.methods import ADAPTER_METHODS
from amdm_lab.shapes.rows import Studio
from amdm_lab.studio.host import Standalone
from amdm_lab.training import train_adapters
from amdm_lab.training.adapter_networks import new_image, new_image_encoder, new_layout
from amdm_lab.training.networks import new_unet
from amdm_lab.world.conditions import boxes_of, layout_of, references, reshaped
from amdm_lab.world.data import stock_boxes, stock_scenes
from amdm_lab.world.scenes import CELLS, COLOURS, SHAPES, Scene, draw, draw_with_boxes, overlap, random_scene
from lib_amdm.adapters.clip_vision import read_clip_vision
from lib_amdm.adapters.inputs import Features, GivenInputs
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.kinds import adapter_of, describe, read_adapter
from lib_amdm.settings import Settings

MEGABYTE = 1_000_000
SEEDS = [3, 4, 5]
RNG = np.random.default_rng(0)
SCENES = [random_scene(RNG) for _ in SEEDS]


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(Standalone(WEIGHTS, adapter_folders=[ADAPTERS]), steps=4, cfg_scale=2.0)


# what is told


def test_a_box_holds_its_thing_tightly() -> None:
    for scene, seed in zip(SCENES, SEEDS):
        picture, told = draw_with_boxes(scene, np.random.default_rng(seed))
        assert np.array_equal(picture, draw(scene, np.random.default_rng(seed)))
        pixels = torch.from_numpy(picture).permute(2, 0, 1) * 2 - 1
        assert len(told) == len(scene.things)
        assert min(boxes.overlaps(scene, told, pixels)) > 0.75
        for (cell, _), (x0, y0, x1, y1) in zip(scene.things, told):
            assert cell % 2 / 2 <= x0 < x1 <= cell % 2 / 2 + 0.5
            assert cell // 2 / 2 <= y0 < y1 <= cell // 2 / 2 + 0.5


def test_nothing_is_found_where_nothing_is_drawn() -> None:
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(30)]
    for scene in scenes:
        picture = draw(scene, rng)
        assert [boxes.drawn_box(picture, cell) is None for cell in range(4)] == [thing is None for thing in scene.cells]


def test_overlap_is_1_with_itself_and_0_apart() -> None:
    box = (0.1, 0.2, 0.4, 0.5)
    assert overlap(box, box) == pytest.approx(1)
    assert overlap(box, (0.6, 0.2, 0.9, 0.5)) == overlap(box, None) == 0
    assert overlap(box, (0.1, 0.2, 0.4, 0.35)) == pytest.approx(0.5)


def test_a_thing_of_the_right_shape_elsewhere_in_the_cell_is_not_in_its_box() -> None:
    scene = Scene((SCENES[0].things[0][1], None, None, None), "plain")
    picture, told = draw_with_boxes(scene, np.random.default_rng(2))
    pictures = torch.from_numpy(picture).permute(2, 0, 1)[None] * 2 - 1
    for asked, inside in ((told, 1), ([(0.0, 0.0, 0.1, 0.1)], 0)):
        found = boxes.in_boxes([scene], [asked], pictures, Judge.load())
        assert (found[0].tolist(), found[1].tolist()) == ([1], [inside])


def test_the_stock_s_boxes_are_of_its_own_pictures() -> None:
    for scene, told in zip(stock_scenes(20), stock_boxes(20), strict=True):
        cells = [int(x0 >= 0.5) + 2 * int(y0 >= 0.5) for x0, y0, _, _ in told]
        assert cells == [cell for cell, _ in scene.things]


def test_a_layout_says_each_shape_in_its_box() -> None:
    [told] = boxes_of(SCENES[:1], SEEDS[:1])
    layout = layout_of(SCENES[0], told)
    assert [region.phrase for region in layout.regions] == [f"a {thing.shape}" for _, thing in SCENES[0].things]
    assert [region.box for region in layout.regions] == told


def test_a_reference_has_all_but_the_shapes() -> None:
    rng = np.random.default_rng(0)
    others = [reshaped(scene, rng) for scene in SCENES for _ in range(10)]
    colours = [[thing and thing.colour for thing in scene.cells] for scene in SCENES for _ in range(10)]
    assert [[thing and thing.colour for thing in scene.cells] for scene in others] == colours
    shapes = {thing.shape for scene in others for _, thing in scene.things}
    assert shapes == set(SHAPES)
    assert torch.equal(references(SCENES, SEEDS)[1:2], references(SCENES[1:2], SEEDS[1:2]))


# training


def some_image_adapter(unet: torch.nn.Module) -> IPAdapter:
    return new_image(unet, torch.randn(4, 24), train_adapters.ImageProbe(new_image_encoder()).readings())


@pytest.mark.parametrize("make", [new_layout, some_image_adapter])
def test_a_new_adapter_changes_nothing_and_learns_everywhere(make: Any) -> None:
    torch.manual_seed(0)
    unet = new_unet().eval().requires_grad_(False)
    adapter = make(unet)
    base: Any = train_adapters.Base.__new__(train_adapters.Base)
    base.unet = unet
    x, times, cond = torch.randn(2, 4, 16, 16), torch.tensor([300, 700]), torch.randn(2, 77, 24)
    plain = unet(x, times, cond).sample

    def told() -> Any:
        if make is some_image_adapter:
            return adapter.prepare(GivenInputs(features=Features(torch.randn(2, train_adapters.IMAGE_EMBEDS))))
        layouts = [layout_of(scene, each) for scene, each in zip(SCENES, boxes_of(SCENES, SEEDS))][:2]
        return adapter.prepare(GivenInputs(layouts, {f"a {shape}": torch.randn(24) for shape in SHAPES}))

    assert torch.allclose(base.predicted(x, times, cond, told(), torch.tensor([True, False])), plain, atol=1e-6)
    optimizer = torch.optim.SGD(adapter.parameters(), lr=1.0)
    for _ in range(2):
        # what is shut at first lets gradients through once it is open
        optimizer.zero_grad()
        base.predicted(x, times, cond, told(), torch.tensor([True, False])).square().mean().backward()
        optimizer.step()
    still = [name for name, each in adapter.named_parameters() if each.grad is None or not each.grad.any()]
    assert still == []
    assert not torch.allclose(base.predicted(x, times, cond, told(), torch.tensor([True, True])), plain, atol=1e-6)


def test_an_image_token_says_its_place_and_what_is_read_there() -> None:
    """Two pictures that are read alike in a cell have the same token for it, and the others differ."""
    torch.manual_seed(0)
    places, reader = torch.randn(4, 24), train_adapters.ImageProbe(new_image_encoder())
    adapter = new_image(new_unet(), places, reader.readings())
    weight = torch.cat([weight for weight, _ in reader.readings()[:1]])
    # a change of the embedding that the first cell's reading does not see
    hidden = torch.linalg.svd(weight).Vh[len(weight) :].T @ torch.randn(64 - len(weight))
    embeds = torch.randn(64)
    one, other = adapter.tokens(torch.stack([embeds, embeds + 3 * hidden]))
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-4)
    assert all((one[cell] - other[cell]).abs().max() > 0.01 for cell in (1, 2, 3))


def test_what_the_fusers_learn_is_what_the_text_adds() -> None:
    """A fuser that adds just that has no loss, and one that adds nothing has all of it."""
    torch.manual_seed(0)
    base: Any = train_adapters.Base.__new__(train_adapters.Base)
    base.unet = new_unet().eval().requires_grad_(False)
    base.encoded = lambda texts: torch.zeros(len(texts), 77, 24)
    x, times, cond = torch.randn(2, 4, 16, 16), torch.tensor([300, 700]), torch.randn(2, 77, 24)
    adapter = new_layout(base.unet)

    class Perfect:
        def fused(self, layer: Any, block: Any, before: Any, call: Any) -> Any:
            h = block.module.norm2(before)
            return block.module.attn2(h, cond) - block.module.attn2(h, torch.zeros_like(cond))

    told = torch.tensor([True, True])
    loss = partial(train_adapters.fusers_loss, base, x, times, cond, adapter)
    perfect: Any = Perfect()
    assert loss(perfect, told).item() == 0
    layouts = [layout_of(scene, each) for scene, each in zip(SCENES, boxes_of(SCENES, SEEDS))][:2]
    new = adapter.prepare(GivenInputs(layouts, {f"a {shape}": torch.randn(24) for shape in SHAPES}))
    assert loss(new, told).item() == pytest.approx(1)


@pytest.mark.parametrize("part", ["layout", "image"])
def test_a_training_leaves_a_file_that_is_read_as_the_adapter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, part: str
) -> None:
    file, encoder = tmp_path / "adapter.safetensors", tmp_path / "encoder.safetensors"
    told = {"STOCK": 16, "BATCH": 4, "ENCODER_BATCH": 3, f"{part.upper()}_STEPS": 2, "ENCODER_STEPS": 2}
    told |= {"ADAPTERS": tmp_path, f"{part.upper()}_ADAPTER": file, "IMAGE_ENCODER": encoder}
    for name, value in told.items():
        monkeypatch.setattr(train_adapters, name, value)
    getattr(train_adapters, f"train_{part}")(tmp_path)
    read = adapter_of(read_adapter(file)).state_dict()
    bundled = adapter_of(read_adapter(LAYOUT_ADAPTER if part == "layout" else IMAGE_ADAPTER)).state_dict()
    assert {key: value.shape for key, value in read.items()} == {key: value.shape for key, value in bundled.items()}
    assert all(value.isfinite().all() for value in read.values())
    assert json.loads((tmp_path / "training.json").read_text())[part]["steps"] == 2
    assert (tmp_path / f"{part}.png").is_file()


def test_the_encoder_reads_every_cell_from_one_embedding() -> None:
    torch.manual_seed(0)
    reader = train_adapters.ImageProbe(new_image_encoder())
    colours, grounds = reader(torch.rand(2, 3, 128, 128))
    assert colours.shape == (2, len(COLOURS) + 1, len(CELLS)) and grounds.shape == (2, 5)


# the files


def test_the_files_are_small_and_are_what_they_are_called() -> None:
    files = {LAYOUT_ADAPTER: ("gligen", "text"), IMAGE_ADAPTER: ("ip-adapter", "base")}
    for file, kind in files.items():
        assert file.stat().st_size < 10 * MEGABYTE
        told = describe(file)
        assert (told.kind, told.variant, told.family) == (*kind, "SD1")
    assert IMAGE_ENCODER.stat().st_size < 10 * MEGABYTE
    encoder = read_clip_vision(IMAGE_ENCODER)
    assert encoder.fits(IPAdapter(read_adapter(IMAGE_ADAPTER)).needs_encoder)
    assert {file.name for file in ADAPTERS.glob("*.safetensors")} == {f.name for f in (*files, IMAGE_ENCODER)}


@pytest.mark.parametrize("name", ["layout-main", "image-main"])
def test_at_strength_0_the_picture_is_the_checkpoints_own_and_else_it_is_not(studio: Studio, name: str) -> None:
    draw: Any = ADAPTER_METHODS[name].draw

    def drawn(strength: float) -> torch.Tensor:
        adapter = replace(draw.settings.main_adapter, strength=strength)
        return replace(draw, settings=replace(draw.settings, main_adapter=adapter))(studio, SCENES, SEEDS).latents

    plain = replace(draw, settings=Settings())(studio, SCENES, SEEDS).latents
    assert torch.equal(drawn(0.0), plain)
    assert (drawn(1.0) - plain).abs().max() > 0.1
    assert torch.equal(replace(draw, settings=Settings())(studio, SCENES, SEEDS).latents, plain)


# the rows


@pytest.mark.parametrize("name", ADAPTER_METHODS)
def test_every_row_gives_each_picture_its_own_latent_in_any_batch(studio: Studio, name: str) -> None:
    method = ADAPTER_METHODS[name]
    together = method.draw(studio, SCENES, SEEDS)
    single = method.draw(studio, SCENES[1:2], SEEDS[1:2])
    torch.testing.assert_close(together.latents[1:2], single.latents, rtol=1e-3, atol=1e-3)
    co_evaluations = studio.steps if name.endswith("amdm") else 0
    assert (together.evaluations, together.co_evaluations) == (studio.steps, co_evaluations)


def test_the_command_measures_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    run("boxes", ["--pictures", "1", "--threads", "1"])
    assert capsys.readouterr().out.count("\n| ") == 1 + len(boxes.ROWS)
