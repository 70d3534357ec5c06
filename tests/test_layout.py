"""Layouts: what is read from JSON and from lines, what is refused and in which words; what is drawn of a region."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fuzz import loop, tried
from hypothesis import given
from PIL import Image
from strategies import boxes, layouts

from lib_amdm.adapters.interactdiffusion import between
from lib_amdm.files.pictures import as_text
from lib_amdm.layout import EXAMPLE, Interaction, Layout, LayoutError, Region, boxes_of
from lib_amdm.webui.region_preview import EVERYWHERE, GRID, SIZE, region_preview

BALL = {"phrase": "a ball", "box": [0.5, 0.5, 1, 1]}
BOY = {"phrase": "a boy", "box": [0, 0, 0.5, 1]}
KICK = {"subject": 0, "action": "kicking", "object": 1}
LAYOUT = Layout(
    (Region("a boy", (0.0, 0.0, 0.5, 1.0)), Region("a ball", (0.5, 0.5, 1.0, 1.0))), (Interaction(0, "kicking", 1),)
)


@pytest.mark.parametrize("read", [Layout.read, boxes_of])
def test_no_more_rows_are_read_than_a_picture_can_need(read: Callable) -> None:
    lines = [f"a {n}: 0 0 0.5 1" for n in range(501)]
    with pytest.raises(LayoutError, match="has 501 rows, but at most 500 are read; remove some"):
        read("\n".join(lines))
    assert read("\n".join(lines[1:]))


def test_json_and_lines_say_the_same() -> None:
    rows = [BOY, KICK, BALL]
    lines = "a boy: 0 0 0.5 1\n\n a boy > kicking > a ball\na ball: 0.5, 0.5, 1, 1\n"
    assert Layout.read(rows) == Layout.read(json.dumps(rows)) == Layout.read(lines) == LAYOUT
    assert Layout.read(lines.replace("a boy > kicking > a ball", "0 > kicking > 1")) == LAYOUT
    assert Layout.read("a sign: STOP: 0 0 1 1").regions == (Region("a sign: STOP", (0, 0, 1, 1)),)
    assert len(Layout.read(EXAMPLE).regions) == 2 and len(Layout.read(EXAMPLE).interactions) == 1
    empty: tuple[Any, ...] = ("", " \n", "[]", [])
    for nothing in empty:
        assert not Layout.read(nothing) and Layout.read(nothing) == Layout() and boxes_of(nothing) == []


def test_a_byte_order_mark_is_no_part_of_a_phrase() -> None:
    """Windows' editors begin a file with one, and copying takes it along."""
    for lines in ("a boy: 0 0 0.5 1", json.dumps([BOY])):
        for start in ("\ufeff", "\ufeff \n", " \ufeff"):
            assert Layout.read(start + lines) == Layout.of_rows([BOY])
            assert boxes_of(start + lines) == [tuple(BOY["box"])]
    assert not Layout.read("\ufeff") and not boxes_of("\ufeff")


@pytest.mark.parametrize("marks", ['""', "''", "“”", "„“", "„”", "«»", "»«", "‘’", "‚‘", "‹›", "「」"])
def test_quotation_marks_around_words_are_no_part_of_them(marks: str) -> None:
    quoted = [f"{marks[0]}{words}{marks[1]}" for words in ("a boy", "kicking", "a ball")]
    boy, kicking, ball = quoted
    lines = f"{boy}: 0 0 0.5 1\n{ball} : 0.5 0.5 1 1\n{boy} > {kicking} > {ball}"
    assert Layout.read(lines) == LAYOUT
    assert Layout.read(lines.replace(f"{boy} >", "a boy >")) == LAYOUT
    assert boxes_of(lines.rpartition("\n")[0]) == [placed.box for placed in LAYOUT.regions]


@pytest.mark.parametrize(
    "phrase", ['a sign "STOP"', '""', '"STOP" and "GO"', 'a 12" pizza', "'tis", '"', "a boy's", "“a” or “b”"]
)
def test_quotation_marks_within_words_stay(phrase: str) -> None:
    assert Layout.read(f"{phrase}: 0 0 1 1").phrases == [phrase]
    assert Layout.read([{"phrase": f'"{phrase}"', "box": [0, 0, 1, 1]}]).phrases == [f'"{phrase}"'], "JSON has its own"


def test_an_end_that_is_a_number_is_first_a_phrase_and_then_a_place() -> None:
    numbers = "a balloon: 0 0 1 0.5\n7: 0 0 1 1\n"
    assert Layout.read(numbers + "0 > shaped like > 7").interactions == (Interaction(0, "shaped like", 1),)
    assert Layout.read("1: 0 0 1 1\n0: 0 0 1 0.5\n0 > on > 1").interactions == (Interaction(1, "on", 0),)
    assert Layout.read([BOY, BALL, {**KICK, "subject": "a boy"}]) == LAYOUT
    # a phrase of several rows means the first of them
    layout = Layout.read("a: 0 0 1 1\nb: 0 0 1 0.5\na: 0 0 0.5 1\na > on > b\nb > under > 2")
    assert layout.interactions == (Interaction(0, "on", 1), Interaction(1, "under", 2))
    for far in ("2", "9" * 400, "9" * 5000):
        with pytest.raises(LayoutError, match="row 3 whose object is"):
            Layout.read(f"{numbers}0 > on > {far}")


@given(layouts())
def test_the_rows_of_a_layout_give_it_back(layout: Layout) -> None:
    assert Layout.of_rows(layout.rows()) == Layout.read(json.dumps(layout.rows())) == layout


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([BOY, {"phrase": "a"}], "row 2"),
        ([{**BOY, "colour": "red"}], "row 1"),
        ([BOY, {**BALL, "box": [0, 0, 1]}], "row 2"),
        ([BOY, {**BALL, "box": "0 0 1 1"}], "row 2"),
        ([BOY, {**BALL, "box": [0, 0, 512, 512]}], "row 2 whose box is not four numbers from 0 to 1"),
        ([BOY, {**BALL, "box": [0, 0, True, 1]}], "row 2"),
        ([BOY, {**BALL, "box": [0, 0, float("nan"), 1]}], "row 2"),
        *(([BOY, {**BALL, "box": [0.5, 0, end, 1]}], "row 2 whose box is empty") for end in (0.2, 0.5)),
        ([BOY, {**BALL, "phrase": " "}], "row 2 without words"),
        ([BOY, KICK], "row 2 whose object is 1, but it must be the number of a phrase, counted from 0 to 0"),
        ([KICK], "there is no phrase"),
        ([BOY, {**KICK, "object": -1}], "row 2"),
        ([BOY, {**KICK, "object": 0.0}], "row 2"),
        ([BOY, BALL, {**KICK, "action": ""}], "row 3 without words for its action"),
        (["a boy"], "row 1"),
        ({"phrase": "a"}, "must be a list of rows"),
        ("[{]", "is not JSON"),
        ("a boy: 0 0 1 1\na ball", "row 2"),
        ("a boy: 0 0 1", "row 1"),
        ("a boy: here", "row 1"),
        ("a boy: 0 0 1 1\na boy > kicking > a ball", "row 2 whose object is .a ball., a phrase that no row has"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_row(rows: Any, said: str) -> None:
    with pytest.raises(LayoutError, match=said) as caught:
        Layout.read(rows)
    assert not re.search(r"\.\s|\n", str(caught.value))


def test_a_region_is_read_from_lines_and_from_json_with_or_without_phrases() -> None:
    boxes = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0)]
    lines = ("0 0 0.5 1\n0.5 0.5 1 1", "a boy: 0, 0, .5, 1\n\n a sign: STOP: [0.5 0.5 1 1]\n")
    rows = ([[0, 0, 0.5, 1], [0.5, 0.5, 1, 1]], [BOY, BALL], [BOY, BALL["box"]])
    for one in (*lines, *rows, *map(json.dumps, rows)):
        assert boxes_of(one) == boxes
    alone = "\n".join(line for line in EXAMPLE.splitlines() if ">" not in line)
    assert boxes_of(alone) == [placed.box for placed in Layout.read(EXAMPLE).regions]


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name])


def fields(drawn: str) -> list[tuple[float, float, float]]:
    """x, y and the share of each field of a region's drawing."""
    _, *rects = ElementTree.fromstring(drawn).findall("{http://www.w3.org/2000/svg}rect")
    return [(number(rect, "x"), number(rect, "y"), number(rect, "opacity")) for rect in rects]


def test_a_regions_drawing_covers_what_the_region_covers() -> None:
    drawn = fields(region_preview("0 0 0.5 1\n0 0 1 0.25", None, 0.0))
    assert {share for _, _, share in drawn} == {1.0}
    assert len(drawn) == GRID * GRID * 0.625
    assert max(y for x, y, _ in drawn if x >= SIZE / 2) < SIZE / 4
    assert len({share for _, _, share in fields(region_preview("0 0 0.5 1", None, 0.1))}) > 4


@pytest.mark.parametrize(("width", "height"), [(512, 512), (1024, 512), (512, 1024), (64, 2048)])
def test_a_regions_drawing_has_the_form_of_the_picture(width: int, height: int) -> None:
    drawn = region_preview("0 0 0.5 1", None, 0.0, width, height)
    svg = ElementTree.fromstring(drawn)
    assert number(svg, "width") / number(svg, "height") == pytest.approx(width / height)
    assert max(number(svg, "width"), number(svg, "height")) == SIZE
    assert max(x for x, _, _ in fields(drawn)) < number(svg, "width") / 2


def test_a_regions_mask_is_drawn_with_its_boxes() -> None:
    mask = Image.new("L", (2, 2), 0)
    mask.putpixel((0, 0), 255)
    for picture in (mask, as_text(mask)):
        assert len(fields(region_preview("0 0 1 0.25", picture, 0.0))) == GRID * GRID / 8


def test_what_a_region_cannot_be_is_said_in_its_place() -> None:
    for nothing in (("", None, 0.0), (None, None, None), ("0 0 1 1", None, 0.3)):
        assert region_preview(*nothing) == EVERYWHERE
    assert "row 2" in region_preview("0 0 1 1\n<b>", None, 0.0)
    assert "<b>" not in region_preview("<b>", None, 0.0)
    assert "mask cannot be read" in region_preview("", "no picture", 0.0)
    assert "must be a list of boxes" in region_preview(np.zeros(3), None, 0.0)


HUGE = "9" * 400
DEEP = "[" * 100_000
NONSENSE = [
    *(DEEP, "[" * 900 + "]" * 900, '{"a":' * 50_000, '[{"phrase": "a", "box": [0, 0, NaN, 1]}]'),
    *(f'[{{"phrase": "a", "box": [0, 0, 1, {number}]}}]' for number in (HUGE, "9" * 5000, "Infinity")),
    f'[{{"phrase": "a", "box": [0, 0, 1, 1]}}, {{"subject": 0, "action": "on", "object": {HUGE}}}]',
    *(
        f"a: 0 0 1 {HUGE}",
        "a: 0 0 1 nan",
        f"a: 0 0 1 1\n{'9' * 5000} > on > a",
        f"[[0, 0, 1, {HUGE}]]",
        f"0 0 1 {HUGE}",
    ),
    *("0 0 1 inf", '{"phrase": "a", "box": [0, 0, 1, 1]}', "x" * 3_000_000, "a" * 3_000_000 + " > b > c"),
    *(
        {"box": [0, 0, 1, 1]},
        {},
        5,
        0,
        10**400,
        1.5,
        True,
        None,
        b"0 0 1 1",
        bytearray(b"0"),
        [0, 0, 1, 1],
        ["0 0 1 1"],
    ),
    *(
        [None],
        [b"\x00\x00\x01\x01"],
        [{"box": b"\x00\x00\x01\x01", "phrase": "a"}],
        ["\ud800\n"],
        {1, 2},
        object(),
        loop(),
    ),
    *([{"phrase": b"a", "box": [0, 0, 1, 1]}], [{1: 2, "box": [0, 0, 1, 1]}, "x" * 3_000_000]),
    *([{"phrase": "a", "box": [0, 0, 1, end]}] for end in (10**400, 10**5000, float("inf"), "\ud800\u2028")),
    (box for box in ([0, 0, 1, 1],)),
]


@pytest.mark.parametrize("given", NONSENSE, ids=lambda given: type(given).__name__)
def test_whatever_is_given_is_read_or_refused_in_a_sentence(given: Any) -> None:
    assert tried(Layout.read, given)[1]
    tried(boxes_of, given)
    drawn = region_preview(given, None, 0.0)
    assert drawn == EVERYWHERE or drawn.startswith(('<p class="error">', "<svg"))
    assert len(drawn.encode()) < 4000


@pytest.mark.parametrize("given", [{"box": [0, 0, 1, 1]}, {}, 5, True, None, b"", [0, 0, 1, 1], [None], ["0 0 1 1"]])
def test_what_is_no_list_of_boxes_is_no_region(given: Any) -> None:
    assert "correct it" in tried(boxes_of, given)[1]


@pytest.mark.parametrize("number", [None, "", "wide", -1, 0, float("nan"), float("inf"), 10**400])
def test_a_preview_of_a_picture_without_a_size_is_drawn_all_the_same(number: Any) -> None:
    """The page's number fields can be cleared, and hold whatever is typed meanwhile."""
    assert region_preview("0 0 0.5 1", None, number, 512, 512).startswith("<")
    assert region_preview("0 0 0.5 1", None, 0.0, number, 512).startswith("<")
    assert region_preview("0 0 0.5 1", None, 0.0, 512, number).startswith("<")


@given(boxes, boxes)
def test_the_box_between_is_the_same_from_either_side_and_within_both(a: tuple, b: tuple) -> None:
    x0, y0, x1, y1 = between(a, b)
    assert between(b, a) == (x0, y0, x1, y1)
    assert min(a[0], b[0]) <= x0 <= x1 <= max(a[2], b[2]) and min(a[1], b[1]) <= y0 <= y1 <= max(a[3], b[3])


def test_the_box_between_overlapping_things_is_what_they_share() -> None:
    assert between((0.0, 0.0, 0.6, 0.5), (0.4, 0.2, 1.0, 1.0)) == (0.4, 0.2, 0.6, 0.5)
    assert between((0.0, 0.0, 0.2, 1.0), (0.7, 0.0, 1.0, 1.0)) == (0.2, 0.0, 0.7, 1.0)


@given(layouts())
def test_the_layout_of_the_whole_picture_is_the_layout(layout: Layout) -> None:
    assert layout.within((0.0, 0.0, 1.0, 1.0)) == layout


def test_a_crop_has_the_parts_of_boxes_in_it_and_the_actions_of_what_is_left() -> None:
    assert LAYOUT.within((0.25, 0.0, 0.75, 1.0)) == Layout(
        (Region("a boy", (0.0, 0.0, 0.5, 1.0)), Region("a ball", (0.5, 0.5, 1.0, 1.0))), LAYOUT.interactions
    )
    assert LAYOUT.within((0.5, 0.0, 1.0, 0.75)) == Layout((Region("a ball", (0.0, 0.5 / 0.75, 1.0, 1.0)),))
    assert not LAYOUT.within((0.5, 0.0, 1.0, 0.5))
