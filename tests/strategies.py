"""Settings, layouts and boxes as Hypothesis draws them, for every test that wants any of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lib_amdm.layout import EXAMPLE, Interaction, Layout, Region
from lib_amdm.settings import (
    MAIN_CHECKPOINT,
    NO_CHECKPOINT,
    AdapterSettings,
    CoModel,
    DeviceSpec,
    Settings,
    Spec,
    WordSpec,
    specs,
)

LAYOUT_TEXTS = ["", EXAMPLE, '[{"phrase": "a red, round ball: \\"a\\"", "box": [0, 0.25, 1, 1]}]', "[]"]
REGION_TEXTS = [
    *("", "0 0 0.5 1", " a sign: STOP: 0, 0, 1, 0.5\n\n.5 .5 1 1\n", "[[0, 0, 0.5, 1]]", "[]", EXAMPLE.splitlines()[0])
]
TEXTS = st.text(max_size=20) | st.sampled_from([NO_CHECKPOINT, MAIN_CHECKPOINT, ""])

# browsers and Python know the letters of different years
letters = st.characters(codec="utf-8", exclude_categories=["Cn"])
words = st.text(letters, min_size=1, max_size=8).map(str.strip).filter(bool)
phrases = words | st.sampled_from(["a boy", "a ball", "0", "1", "a > b > c", '"a"', "a: b", "[a", "{", "٣"])
sides = st.lists(st.floats(0, 1) | st.integers(0, 100).map(lambda n: n / 100), min_size=2, max_size=2, unique=True)
boxes = st.tuples(sides.map(sorted), sides.map(sorted)).map(lambda two: (two[0][0], two[1][0], two[0][1], two[1][1]))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Phrases in boxes, and actions between them."""
    placed = draw(st.lists(st.builds(Region, phrases, boxes), min_size=1, max_size=4))
    number = st.integers(0, len(placed) - 1)
    return Layout(tuple(placed), tuple(draw(st.lists(st.builds(Interaction, number, phrases, number), max_size=3))))


def value_of(spec: Spec, relative: bool = True, texts: Any = TEXTS, **instead: Any) -> st.SearchStrategy[Any]:
    """Values that a setting takes, as the API has them. instead: other values, by the settings' names."""
    if spec.name in instead:
        return instead[spec.name]
    if spec.choices:
        return st.sampled_from(spec.choices)
    if spec.type is bool:
        return st.booleans()
    if spec.name in ("layout", "region"):
        return st.sampled_from(LAYOUT_TEXTS if spec.name == "layout" else REGION_TEXTS)
    if isinstance(spec, DeviceSpec):
        return st.sampled_from(["auto", "cpu", "cuda:1", "xpu:0"])
    if spec.type is str:
        return texts
    # an eta of more than 1 needs a correction of its own
    top = 1 if relative and spec.name == "eta" else spec.maximum
    assert spec.minimum is not None and top is not None
    whole = st.integers(int(spec.minimum), int(top))
    numbers = whole if spec.type is int else whole | st.floats(spec.minimum, top)
    if not isinstance(spec, WordSpec):
        return numbers
    return numbers | st.just(spec.meaning) | st.sampled_from([spec.word, f" {spec.word.title()}\n", "1", "0.0", " 1. "])


@st.composite
def bodies(draw: st.DrawFn, slots: int = 3, **instead: Any) -> dict[str, Any]:
    """Settings that are taken, as the API has them, any of them left out."""
    relative = draw(st.booleans())
    fixed = {} if relative else {"correction": st.just("paper")}

    def some(of: type, fixed: dict[str, Any], left_out: tuple[str, ...] = ()) -> dict[str, Any]:
        values = {spec.name: value_of(spec, relative, **instead) for spec in specs(of) if spec.name not in left_out}
        return draw(st.fixed_dictionaries(fixed, optional={k: v for k, v in values.items() if k not in fixed}))

    given = some(Settings, fixed, ("correction",))
    given |= {"co_models": [some(CoModel, {}) for _ in range(draw(st.integers(0, slots)))]}
    return given | ({"main_adapter": some(AdapterSettings, {})} if draw(st.booleans()) else {})
