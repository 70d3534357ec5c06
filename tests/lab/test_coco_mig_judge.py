"""COCO-MIG's judge: its arithmetic on drawings whose boxes a stand-in reads, and the code paths of the real models."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_judges
import torch
from PIL import Image, ImageDraw

from amdm_lab.coco_mig.benchmark import Entry, Instance, prompt_of
from amdm_lab.coco_mig.colours import colour_share, has_colour, hsv
from amdm_lab.coco_mig.detector import Detections, GroundingDino
from amdm_lab.coco_mig.judge import Verdict, judge, overlaps
from amdm_lab.coco_mig.published import COLOURS, SIZE
from amdm_lab.coco_mig.segmenter import SegmentAnything, WholeBox
from amdm_lab.world.scenes import Scene, draw_with_boxes, random_scene
from lib_amdm.errors import AmdmError
from lib_amdm.layout import Box

PAINTS = {
    "red": (200, 20, 20),
    "blue": (20, 60, 200),
    "green": (20, 150, 40),
    "yellow": (240, 225, 20),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
    "brown": (130, 75, 30),
}
GREY = (127, 127, 127)
"""No colour of the benchmark, as the published judge's background."""
LEFT, RIGHT = (0.125, 0.25, 0.375, 0.75), (0.625, 0.25, 0.875, 0.75)


class Reads:
    """Finds in a picture what was drawn there: the boxes by the things' names."""

    name = "the drawing"

    def __init__(self, things: Iterable[tuple[str, Box]]) -> None:
        self.things = list(things)
        self.sizes: list[tuple[int, int]] = []

    def __call__(self, picture: Image.Image, phrase: str) -> Detections:
        self.sizes.append(picture.size)
        boxes = [box for name, box in self.things if name == phrase]
        return Detections(np.array(boxes, float).reshape(-1, 4), np.ones(len(boxes)))


def entry(*instances: tuple[str, Box]) -> Entry:
    return Entry(0, "0", prompt_of([label for label, _ in instances]), tuple(Instance(*each) for each in instances))


def painted(things: Sequence[tuple[str, Box]], size: int = SIZE) -> Image.Image:
    picture = Image.new("RGB", (size, size), GREY)
    for colour, (x0, y0, x1, y1) in things:
        corners = [x0 * size, y0 * size, x1 * size - 1, y1 * size - 1]
        ImageDraw.Draw(picture).rectangle(corners, fill=PAINTS[colour])
    return picture


def judged(wanted: Entry, drawn: Sequence[tuple[str, str, Box]], size: int = SIZE) -> list[Verdict]:
    """Judge a picture with things (colour, name, box)."""
    picture = painted([(colour, box) for colour, _, box in drawn], size)
    return judge(picture, wanted, Reads((name, box) for _, name, box in drawn), WholeBox())


def moved(box: Box, by: float) -> Box:
    return box[0] + by, box[1], box[2] + by, box[3]


# --- the arithmetic ---


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_in_its_box_with_its_colour_is_right(colour: str) -> None:
    [verdict] = judged(entry((f"a {colour} cat", LEFT)), [(colour, "cat", LEFT)])
    assert (verdict.success, verdict.overlap, verdict.colour) == (True, 1.0, 1.0)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_thing_of_another_colour_counts_as_not_there(colour: str) -> None:
    for other in set(COLOURS) - {colour}:
        [verdict] = judged(entry((f"a {colour} cat", LEFT)), [(other, "cat", LEFT)])
        assert (verdict.success, verdict.overlap, verdict.found) == (False, 0.0, 1.0), other


@pytest.mark.parametrize(("shift", "overlap"), [(0.0, 1.0), (0.05, 2 / 3), (1 / 12, 0.5)])
def test_half_of_the_united_area_is_enough(shift: float, overlap: float) -> None:
    [verdict] = judged(entry(("a red cat", LEFT)), [("red", "cat", moved(LEFT, shift - 1e-12))])
    assert verdict.success and verdict.overlap == pytest.approx(overlap)


@pytest.mark.parametrize("colour", ["red", "blue"])
def test_out_of_its_box_a_thing_keeps_its_overlap_whatever_its_colour(colour: str) -> None:
    [verdict] = judged(entry(("a red cat", LEFT)), [(colour, "cat", moved(LEFT, 0.1))])
    assert not verdict.success and verdict.colour is None
    assert verdict.overlap == verdict.found == pytest.approx(0.15 / 0.35)


def test_what_is_not_found_is_wrong() -> None:
    verdicts = judged(entry(("a red cat", LEFT), ("a red dog", RIGHT)), [("red", "cat", LEFT), ("red", "cat", RIGHT)])
    assert [(v.success, v.overlap) for v in verdicts] == [(True, 1.0), (False, 0.0)]


def test_each_instance_takes_the_best_of_its_name() -> None:
    wanted = entry(("a red cat", LEFT), ("a blue cat", RIGHT))
    drawn = [("blue", "cat", RIGHT), ("red", "cat", moved(LEFT, 0.02)), ("red", "cat", LEFT)]
    assert [verdict.overlap for verdict in judged(wanted, drawn)] == [1.0, 1.0]
    # one thing may stand for two instances, as in the published judge
    twice = entry(("a red cat", LEFT), ("a red cat", moved(LEFT, 0.01)))
    assert all(verdict.success for verdict in judged(twice, [("red", "cat", LEFT)]))


@pytest.mark.parametrize(("rows", "right"), [(51, False), (52, True)])
def test_a_fifth_of_the_things_pixels_must_have_its_colour(rows: int, right: bool) -> None:
    """Of 256 rows; the rest of the thing is grey."""
    wanted = entry(("a red cat", (0, 0, 0.5, 0.5)))
    picture = painted([("red", (0, 0, 0.5, rows / SIZE))])
    [verdict] = judge(picture, wanted, Reads([("cat", (0, 0, 0.5, 0.5))]), WholeBox())
    assert verdict.colour == pytest.approx(rows / 256) and verdict.success is right


def test_pictures_of_any_size_are_judged_at_the_published_one() -> None:
    wanted = entry(("a red cat", LEFT), ("a white dog", RIGHT))
    drawn = [("red", "cat", LEFT), ("white", "dog", RIGHT)]
    reads = Reads((name, box) for _, name, box in drawn)
    for size in (64, SIZE, 1024):
        picture = painted([(colour, box) for colour, _, box in drawn], size).convert("RGBA")
        assert all(verdict.success for verdict in judge(picture, wanted, reads, WholeBox()))
    assert set(reads.sizes) == {(SIZE, SIZE)}


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([LEFT, RIGHT, (0.125, 0.25, 0.25, 0.75), (0.0, 0.0, 1.0, 1.0)])
    assert overlaps(LEFT, boxes) == pytest.approx([1.0, 0.0, 0.5, 0.125])


# --- the shapes world's drawings ---


def _wanted(scene: Scene, boxes: Sequence[Box], colours: Mapping[str, str]) -> Entry:
    labels = [f"a {colours[thing.colour]} {thing.shape}" for _, thing in scene.things]
    return entry(*zip(labels, boxes))


def test_drawn_scenes_are_judged_by_what_is_drawn() -> None:
    """Right as they are; with other colours wanted, or with each thing's box a cell further, hardly any is."""
    swapped = dict(zip(("red", "blue", "green", "yellow", "black", "white", "brown"), ("blue", "green", "red") * 3))
    right, recoloured, moved_on, total = 0, 0, 0, 0
    for seed in range(16):
        rng = np.random.default_rng(seed)
        scene = random_scene(rng)
        pixels, boxes = draw_with_boxes(scene, rng, SIZE // 128)
        if any(thing.colour not in COLOURS for _, thing in scene.things):
            continue
        picture = Image.fromarray((255 * pixels).astype(np.uint8))
        reads = Reads((thing.shape, box) for (_, thing), box in zip(scene.things, boxes))
        elsewhere = [((x0 + 0.5) % 1, y0, (x0 + 0.5) % 1 + x1 - x0, y1) for x0, y0, x1, y1 in boxes]
        same = {colour: colour for colour in COLOURS}
        for colours, places in ((same, boxes), (swapped, boxes), (same, elsewhere)):
            verdicts = judge(picture, _wanted(scene, places, colours), reads, WholeBox())
            found = sum(verdict.success for verdict in verdicts)
            if colours is swapped:
                recoloured += found
            elif places is boxes:
                right, total = right + found, total + len(verdicts)
            else:
                moved_on += found
    assert total > 15
    assert right >= 0.95 * total and recoloured == 0 and moved_on <= 0.1 * total


# --- the colour test ---


def test_hue_saturation_and_value_are_opencvs() -> None:
    """Figures of cv2.cvtColor, COLOR_BGR2HSV of 4.11, some of which another way of rounding would miss."""
    pairs = {
        (255, 0, 0): (0, 255, 255),
        (0, 255, 0): (60, 255, 255),
        (0, 0, 255): (120, 255, 255),
        (255, 255, 255): (0, 0, 255),
        (0, 0, 0): (0, 0, 0),
        (200, 100, 51): (10, 190, 200),
        (12, 34, 56): (105, 200, 56),
        (250, 10, 11): (0, 245, 250),
        (201, 69, 25): (7, 223, 201),
        (222, 37, 60): (176, 213, 222),
    }
    picture = np.array([list(pairs)], np.uint8)
    assert hsv(picture)[0].tolist() == [list(told) for told in pairs.values()]


def test_paints_have_their_own_colour_alone() -> None:
    picture = np.array([[*PAINTS.values(), GREY]], np.uint8)
    found = {colour: has_colour(picture, colour)[0].tolist() for colour in COLOURS}
    assert found == {colour: [other == colour for other in (*PAINTS, "grey")] for colour in COLOURS}


def test_the_share_is_of_the_masks_pixels() -> None:
    picture = np.asarray(painted([("red", (0, 0, 0.5, 1))], 8))
    mask: Any = np.zeros((8, 8), bool)
    assert colour_share(picture, "red", mask) == 0
    mask[0, 3:] = True
    assert colour_share(picture, "red", mask) == pytest.approx(1 / 5)


def test_a_whole_box_is_its_pixels() -> None:
    [mask, none] = WholeBox()(Image.new("RGB", (8, 4)), [(0.25, 0.5, 1, 1), (0, 0, 0.01, 0.01)])
    assert mask.shape == (4, 8) and mask[2:, 2:].all() and mask.sum() == 12 and not none.any()


# --- the real models' code, with random weights ---


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("judges")
    return {
        "detector": tiny_judges.grounding_dino(folder / "dino"),
        "segmenter": tiny_judges.segment_anything(folder / "sam"),
    }


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))


def test_detections_are_those_of_the_librarys_own_reading(models: dict[str, Path]) -> None:
    """`post_process_grounded_object_detection` with the published bars, and torchvision's suppression."""
    from torchvision.ops import nms
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    processor = AutoProcessor.from_pretrained(models["detector"])
    model = GroundingDinoForObjectDetection.from_pretrained(models["detector"]).eval()
    inputs = processor(images=noise(), text="hot dog.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    [own] = processor.post_process_grounded_object_detection(
        outputs, inputs.input_ids, threshold=0.25, text_threshold=0.25, target_sizes=[(1, 1)]
    )
    kept = nms(own["boxes"], own["scores"], 0.8)
    assert 0 < len(kept) < 12
    found = GroundingDino(models["detector"])(noise(), "Hot dog")
    assert found.boxes == pytest.approx(own["boxes"][kept].numpy(), abs=1e-6)
    assert found.scores == pytest.approx(own["scores"][kept].numpy(), abs=1e-6)
    assert (found.scores > 0.25).all()


def test_detections_depend_on_the_picture_and_the_phrase(models: dict[str, Path]) -> None:
    detector = GroundingDino(models["detector"])
    one = detector(noise(), "cat").scores
    assert one.tolist() == detector(noise(), "cat").scores.tolist()
    assert one.tolist() != detector(noise(1), "cat").scores.tolist()
    assert one.tolist() != detector(noise(), "dog").scores.tolist()


def test_masks_are_of_the_pictures_size_one_for_each_box(models: dict[str, Path]) -> None:
    segmenter = SegmentAnything(models["segmenter"])
    boxes = [LEFT, RIGHT, (0.0, 0.0, 1.0, 1.0)]
    masks = segmenter(noise(), boxes)
    assert [mask.shape for mask in masks] == [(SIZE, SIZE)] * 3 and masks[0].dtype == bool
    assert not np.array_equal(masks[0], masks[1])
    [alone] = segmenter(noise(), [RIGHT])
    assert (alone == masks[1]).mean() > 0.999
    assert segmenter(noise(), []) == []


def test_the_whole_judge_runs_with_them(models: dict[str, Path]) -> None:
    detector, segmenter = GroundingDino(models["detector"]), SegmentAnything(models["segmenter"])
    found = detector(noise(), "cat").boxes[0].tolist()
    verdicts = judge(noise(), entry(("a red cat", tuple(found)), ("a blue dog", LEFT)), detector, segmenter)
    assert verdicts[0].found == pytest.approx(1) and verdicts[0].colour is not None
    assert all(0 <= verdict.overlap <= 1 for verdict in verdicts)


def test_without_transformers_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        AmdmError, match=r"^--detector needs the Python package transformers; install it with: pip install"
    ):
        GroundingDino(tmp_path)


@pytest.mark.parametrize(("kind", "other"), [(GroundingDino, "segmenter"), (SegmentAnything, "detector")])
def test_a_folder_without_the_model_is_named(models: dict[str, Path], tmp_path: Path, kind: type, other: str) -> None:
    argument = "--detector" if kind is GroundingDino else "--segmenter"
    with pytest.raises(AmdmError, match=f'^{argument}: ".*lost" is no folder of a model'):
        kind(tmp_path / "lost")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(
        json.dumps({"model_type": "grounding-dino" if kind is GroundingDino else "sam"})
    )
    with pytest.raises(AmdmError, match=f'^{argument}: ".*broken" cannot be loaded .*; download it again.$'):
        kind(broken)
    with pytest.raises(AmdmError, match=f'^{argument}: ".*" is a model of another kind'):
        kind(models[other])
