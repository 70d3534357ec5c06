"""The place of a co-model: what of a latent boxes and a mask cover, how soft their edge is, and what is refused."""

from __future__ import annotations

import base64
import io
from itertools import pairwise
from typing import Any

import pytest
import strategies
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from lib_amdm.comodels.regions import region_map
from lib_amdm.files.pictures import as_text
from lib_amdm.settings import CoModel

Box = tuple[float, float, float, float]


def shares(height: int, width: int, boxes: list[Box] | str = "", mask: Any = None, feather: float = 0.0) -> Tensor:
    """The map as height x width; ones if the model applies everywhere."""
    text = boxes if isinstance(boxes, str) else "\n".join(" ".join(map(repr, box)) for box in boxes)
    found = region_map(CoModel(region=text, mask=as_text(mask), feather=feather), height, width, "AMDM co-model 1")
    if found is None:
        return torch.ones(height, width)
    assert found.shape == (1, 1, height, width)
    assert found.dtype == torch.float32
    assert found.min() >= 0 and found.max() <= 1
    return found[0, 0]


sizes = st.tuples(st.integers(1, 24), st.integers(1, 24))


def area(box: Box) -> float:
    x0, y0, x1, y1 = box
    return (x1 - x0) * (y1 - y0)


@pytest.mark.parametrize("feather", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("everything", ["", " \n", "[]", "0 0 1 1", "a picture: 0 0 1 1", "0 0 0.1 0.1\n0 0 1 1"])
def test_a_region_of_everything_is_none(everything: str, feather: float) -> None:
    for height, width in ((8, 8), (64, 96), (1, 1), (7, 13)):
        assert region_map(CoModel(region=everything, feather=feather), height, width, "AMDM") is None


@given(sizes, st.lists(st.floats(0, 1), max_size=4), st.lists(st.floats(0, 1), max_size=4), st.floats(0, 0.5))
def test_boxes_that_share_out_everything_are_everything(
    size: tuple[int, int], xs: list, ys: list, feather: float
) -> None:
    """Wherever the cuts run: two boxes that meet within a place of the latent leave no seam in it."""
    across, down = (sorted({0.0, *ends, 1.0}) for ends in (xs, ys))
    boxes = [(x0, y0, x1, y1) for x0, x1 in pairwise(across) for y0, y1 in pairwise(down)]
    text = "\n".join(" ".join(map(repr, box)) for box in boxes)
    assert region_map(CoModel(region=text, feather=feather), *size, "AMDM") is None


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", [(1, 1), (512, 512), (333, 101)])
def test_a_white_mask_is_everything(mode: str, size: tuple[int, int]) -> None:
    mask = as_text(Image.new(mode, size, "white"))
    for height, width in ((8, 8), (64, 96), (7, 13)):
        assert region_map(CoModel(mask=mask, feather=0.1), height, width, "AMDM") is None


@given(sizes, strategies.boxes)
def test_a_box_covers_its_area(size: tuple[int, int], box: Box) -> None:
    assert shares(*size, [box]).double().mean().item() == pytest.approx(area(box), abs=1e-6)


@given(sizes, strategies.boxes, st.floats(0, 1))
def test_a_box_covers_what_its_parts_cover_together(size: tuple[int, int], box: Box, way: float) -> None:
    x0, y0, x1, y1 = box
    cut = x0 + way * (x1 - x0)
    parts = [part for part in ((x0, y0, cut, y1), (cut, y0, x1, y1)) if part[0] < part[2]]
    whole = shares(*size, [box])
    torch.testing.assert_close(shares(*size, parts), whole)
    torch.testing.assert_close(sum(shares(*size, [part]) for part in parts), whole, rtol=0, atol=1e-6)


@given(sizes, st.lists(strategies.boxes, min_size=1, max_size=3))
def test_boxes_that_overlap_count_once(size: tuple[int, int], boxes: list[Box]) -> None:
    """By inclusion and exclusion, place by place."""
    expected = torch.zeros(size, dtype=torch.float64)
    for chosen in range(1, 2 ** len(boxes)):
        some = [box for number, box in enumerate(boxes) if chosen >> number & 1]
        (x0, y0), (x1, y1) = (
            [pick(box[end] for box in some) for end in ends] for pick, ends in ((max, (0, 1)), (min, (2, 3)))
        )
        if x0 < x1 and y0 < y1:
            expected += (-1) ** (len(some) + 1) * shares(*size, [(x0, y0, x1, y1)]).double()
    torch.testing.assert_close(shares(*size, boxes).double(), expected, rtol=0, atol=1e-5)


@given(sizes, strategies.boxes)
def test_a_place_within_a_box_is_covered_and_one_outside_is_not(size: tuple[int, int], box: Box) -> None:
    height, width = size
    found, (x0, y0, x1, y1) = shares(height, width, [box]), box
    for y in range(height):
        for x in range(width):
            if x0 <= x / width and (x + 1) / width <= x1 and y0 <= y / height and (y + 1) / height <= y1:
                assert found[y, x] == pytest.approx(1, abs=1e-6)
            if x1 <= x / width or (x + 1) / width <= x0 or y1 <= y / height or (y + 1) / height <= y0:
                assert found[y, x] == pytest.approx(0, abs=1e-6)


@given(st.tuples(st.integers(4, 24), st.integers(4, 24)), strategies.boxes, st.floats(0, 0.5))
def test_a_feathers_edge_is_as_wide_as_it_says_and_no_wider(size: tuple[int, int], box: Box, feather: float) -> None:
    """1 where all is inside as far as its width reaches, 0 where all is outside."""
    hard, soft = shares(*size, [box]), shares(*size, [box], feather=feather)
    width = feather * min(size) + 0.5  # a latent has whole places only
    far = int(width) + (width % 1 > 0)
    around = F.pad(hard[None, None], (far,) * 4, mode="replicate")
    lowest = -F.max_pool2d(-around, 2 * far + 1, stride=1)[0, 0]
    highest = F.max_pool2d(around, 2 * far + 1, stride=1)[0, 0]
    inside, outside = soft[lowest == 1], soft[highest == 0]
    torch.testing.assert_close(inside, torch.ones_like(inside))
    torch.testing.assert_close(outside, torch.zeros_like(outside), rtol=0, atol=1e-6)
    assert (soft <= highest + 1e-6).all() and (soft >= lowest - 1e-6).all()


def test_an_edge_falls_evenly_and_its_middle_stays() -> None:
    soft = shares(32, 32, "0 0 0.5 1", feather=0.25)
    assert torch.equal(soft, soft[:1].expand_as(soft)), "along the edge nothing changes, at the picture's sides neither"
    row = soft[0]
    assert (row.diff() <= 0).all()
    assert row[7] == 1 and row[24] == 0
    assert 0 < row[23] < row[16] < 0.5 < row[15] < row[8] < 1
    assert row[15] + row[16] == pytest.approx(1)
    torch.testing.assert_close(row[8:24].diff(), torch.full((15,), -1 / 17))


def test_a_region_at_the_pictures_side_goes_on_beyond_it() -> None:
    """Its edge is that of the same region in a larger picture."""
    beside, within = shares(32, 32, "0 0 0.125 1", feather=0.25), shares(32, 64, "0 0 0.5625 1", feather=0.25)
    torch.testing.assert_close(beside, within[:, 32:])
    assert beside[0, 0] > 0.5


def test_without_a_feather_the_edge_is_hard() -> None:
    assert set(shares(32, 32, "0 0 0.5 1").unique().tolist()) == {0.0, 1.0}


def painted(mode: str, inside: Any, outside: Any, size: tuple[int, int] = (40, 20)) -> Image.Image:
    """The left half one colour, the right half another."""
    picture = Image.new(mode, size, outside)
    picture.paste(inside, (0, 0, size[0] // 2, size[1]))
    return picture


LEFT = torch.cat([torch.ones(4, 3), torch.zeros(4, 3)], dim=1)


@pytest.mark.parametrize(
    "mask",
    [
        painted("L", 255, 0),
        painted("RGB", (255, 255, 255), (0, 0, 0)),
        painted("1", 1, 0),
        painted("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)),  # opaque: its brightness
        painted("RGBA", (0, 0, 0, 255), (255, 255, 255, 0)),  # its transparency, whatever the colours
        painted("LA", (0, 255), (255, 0)),
    ],
    ids=lambda mask: mask.mode,
)
def test_a_mask_is_read_by_its_transparency_and_where_it_has_none_by_its_brightness(mask: Image.Image) -> None:
    file = io.BytesIO()
    mask.save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode("ascii")
    for start in ("", "data:image/png;base64,"):
        found = region_map(CoModel(mask=start + text), 4, 6, "AMDM")
        assert found is not None and torch.equal(found[0, 0], LEFT)


def test_greys_are_shares_and_a_place_has_the_mean_of_what_is_in_it() -> None:
    assert shares(4, 6, mask=Image.new("L", (30, 30), 51)).unique().tolist() == pytest.approx([0.2])
    board = Image.new("L", (12, 8), 0)
    for x in range(12):
        for y in range(x % 2, 8, 2):
            board.putpixel((x, y), 255)
    assert shares(4, 6, mask=board).unique().tolist() == [0.5]
    ramp = Image.linear_gradient("L").rotate(90).resize((60, 8), Image.Resampling.BOX)
    assert shares(4, 6, mask=ramp).mean().item() == pytest.approx(0.5, abs=0.01)


def test_where_both_are_given_both_are_meant() -> None:
    mask = painted("L", 255, 0)
    both = shares(4, 6, "0 0 1 0.5", mask=mask)
    assert torch.equal(both, shares(4, 6, "0 0 1 0.5") * LEFT)
    assert both.sum() == 6


@given(sizes, st.integers(1, 3), st.floats(0, 0.5), st.booleans())
def test_masks_that_are_given_are_those_of_the_pictures(
    size: tuple[int, int], count: int, feather: float, boxed: bool
) -> None:
    """Each of a batch has its map, which is that of the same mask as a picture, whatever the size of the masks is."""
    drawn = torch.randint(0, 256, (count, 17, 23), generator=torch.Generator().manual_seed(count), dtype=torch.uint8)
    slot = CoModel(region="0 0 0.5 1" if boxed else "", feather=feather)
    found = region_map(slot, *size, "AMDM", drawn / 255)
    assert found is not None
    assert found.shape == (count, 1, *size)
    for each, mask in zip(found, drawn):
        picture = Image.fromarray(mask.numpy())
        assert torch.allclose(each[0], shares(*size, boxes=slot.region, mask=picture, feather=feather), atol=1e-6)


def in_crop(height: int, width: int, crop: Box, **slot: Any) -> Tensor:
    """The map of a crop as height x width."""
    found = region_map(CoModel(**slot), height, width, "AMDM", crop=crop)
    return torch.ones(height, width) if found is None else found[0, 0]


@pytest.mark.parametrize("feather", [0.0, 0.1])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("region", ["", "0.25 0.25 0.5 0.8", "0 0 0.4 1\n0.3 0.5 1 1"])
def test_the_map_of_a_crop_is_that_part_of_the_pictures(region: str, mask: bool, feather: float) -> None:
    drawn = torch.rand(32, 48, generator=torch.Generator().manual_seed(1)).mul(255).byte().numpy()
    slot: dict[str, Any] = {"region": region, "feather": feather}
    slot["mask"] = as_text(Image.fromarray(drawn)) if mask else ""
    whole = region_map(CoModel(**slot), 32, 48, "AMDM")
    expected = torch.ones(32, 48) if whole is None else whole[0, 0]
    found = in_crop(16, 12, (0.25, 0.25, 0.5, 0.75), **slot)
    torch.testing.assert_close(found, expected[8:24, 12:24], rtol=0, atol=1e-5)
    inside = (slice(4, -4), slice(4, -4))
    torch.testing.assert_close(in_crop(32, 48, (0, 0, 1, 1), **slot)[inside], expected[inside], rtol=0, atol=1e-5)


def test_a_crop_beyond_the_picture_continues_its_edge() -> None:
    found = in_crop(4, 8, (-0.5, 0.0, 0.5, 1.0), region="0 0 0.25 1")
    assert found.tolist() == [[1.0] * 6 + [0.0] * 2] * 4


@pytest.mark.parametrize("crop", [(0.55, 0.0, 0.85, 1.0), (0.5, 0.2, 0.51, 0.3)])
def test_a_crop_outside_a_region_has_nothing_of_it(crop: Box) -> None:
    assert not in_crop(8, 8, crop, region="0 0 0.5 1").any()
    assert in_crop(8, 8, crop, region="0 0 0.5 1", feather=0.25).any()
