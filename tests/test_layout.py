"""Layouts: what they say, and one sentence naming the row for each that says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib_amdm.adapters.errors import AdapterError
from lib_amdm.adapters.interactdiffusion import between
from lib_amdm.adapters.layout import EXAMPLE, EXAMPLE_ACTION, Interaction, Layout, Region, parse_layout, rows_of

BALL = {"phrase": "a ball", "box": [0.1, 0.2, 0.5, 0.6]}
BOY = {"phrase": " a boy ", "box": [0, 0, 1, 1]}
KICK = {"subject": 1, "action": "kicking", "object": 0}

shares = st.floats(0, 1).map(lambda x: round(x, 4))
boxes = st.tuples(shares, shares, shares, shares).filter(lambda b: b[0] < b[2] and b[1] < b[3])
words = st.text(min_size=1).map(str.strip).filter(bool)
regions = st.lists(st.builds(Region, words, boxes), min_size=1, max_size=4)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    things = tuple(draw(regions))
    which = st.integers(0, len(things) - 1)
    return Layout(things, tuple(draw(st.lists(st.builds(Interaction, which, words, which), max_size=3))))


@given(layouts())
def test_a_layout_survives_json(layout: Layout) -> None:
    assert parse_layout(json.loads(json.dumps(rows_of(layout)))) == layout


def test_interactions_count_the_phrase_rows_wherever_they_stand() -> None:
    wanted = Layout(
        (Region("a ball", (0.1, 0.2, 0.5, 0.6)), Region("a boy", (0.0, 0.0, 1.0, 1.0))), (Interaction(1, "kicking", 0),)
    )
    assert (
        parse_layout([BALL, BOY, KICK]) == parse_layout([BALL, KICK, BOY]) == parse_layout([KICK, BALL, BOY]) == wanted
    )
    assert parse_layout([]) == Layout()


def test_the_examples_are_right() -> None:
    row = json.loads(EXAMPLE)
    assert parse_layout([row, row, json.loads(EXAMPLE_ACTION)]).interactions == (Interaction(0, "kicking", 1),)


BAD = {
    "no list": ({"phrase": "a"}, "must be a list of rows"),
    "a text": ("a ball", "must be a list of rows"),
    "no object": ([BALL, "a boy"], "Row 2 .* no object"),
    "other keys": ([{**BALL, "colour": "red"}], "Row 1 .* keys phrase, box, colour"),
    "no keys": ([{}], "Row 1 .* keys of nothing"),
    "no words": ([BALL, {**BALL, "phrase": "  "}], "Row 2 .* no words as its phrase"),
    "no action": ([BALL, {**KICK, "subject": 0, "action": None}], "Row 2 .* no words as its action"),
    "three numbers": ([{**BALL, "box": [0, 0, 1]}], "box in row 1 .* four numbers"),
    "words in a box": ([{**BALL, "box": [0, 0, 1, "1"]}], "box in row 1 .* four numbers"),
    "truth in a box": ([{**BALL, "box": [0, 0, 1, True]}], "box in row 1 .* four numbers"),
    "no number": ([{**BALL, "box": [0, 0, 1, float("nan")]}], "box in row 1 .* four numbers"),
    "pixels": ([BALL, {**BALL, "box": [0, 0, 512, 512]}], r"box in row 2 .* \[0, 0, 512, 512\]; it needs 0 <= x0"),
    "wrong order": ([{**BALL, "box": [0.5, 0, 0.1, 1]}], "box in row 1 .* x0 < x1"),
    "no height": ([{**BALL, "box": [0, 0.5, 1, 0.5]}], "box in row 1 .* y0 < y1"),
    "nobody": ([BALL, KICK], "subject in row 2 .* there is 1"),
    "no number of a row": ([BALL, BOY, {**KICK, "object": "0"}], "object in row 3 .* there are 2"),
}


@pytest.mark.parametrize("what", BAD)
def test_refusals_name_the_row_in_one_sentence(what: str) -> None:
    rows, words = BAD[what]
    with pytest.raises(AdapterError, match=words) as error:
        parse_layout(rows)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_nothing_else_than_a_sentence_comes_of_nonsense(told: Any) -> None:
    try:
        parse_layout(told)
    except AdapterError as error:
        assert str(error)


@given(boxes, boxes)
def test_the_box_between_is_the_same_from_either_side_and_within_both(a: tuple, b: tuple) -> None:
    x0, y0, x1, y1 = between(a, b)
    assert between(b, a) == (x0, y0, x1, y1)
    assert min(a[0], b[0]) <= x0 <= x1 <= max(a[2], b[2]) and min(a[1], b[1]) <= y0 <= y1 <= max(a[3], b[3])


def test_the_box_between_overlapping_things_is_what_they_share() -> None:
    assert between((0.0, 0.0, 0.6, 0.5), (0.4, 0.2, 1.0, 1.0)) == (0.4, 0.2, 0.6, 0.5)
    assert between((0.0, 0.0, 0.2, 1.0), (0.7, 0.0, 1.0, 1.0)) == (0.2, 0.0, 0.7, 1.0)
