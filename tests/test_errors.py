"""Every complaint is one line of at most 500 characters that any console can show, whatever it has to tell of."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
import weakref
from typing import Any, NoReturn

import pytest
from fuzz import deep, loop
from hypothesis import given
from hypothesis import strategies as st

from lib_amdm.errors import LONGEST, AdapterError, AmdmError, clipped, let_go, one_sentence, short
from lib_amdm.layout import LayoutError
from lib_amdm.settings import SettingsError

BREAKS = "\n\r\t\v\f\x1c\x1d\x1e\x85\u2028\u2029 "
ANY = st.text(st.characters() | st.sampled_from(BREAKS) | st.characters(categories=["Cs"]))
EACH = pytest.mark.parametrize("kind", [AdapterError, AmdmError, LayoutError, SettingsError])


def is_one_line(line: str) -> bool:
    line.encode()
    return len(line) <= LONGEST and len(line.splitlines()) <= 1


@given(ANY)
def test_any_text_becomes_one_line_that_can_be_written(text: str) -> None:
    line = one_sentence(text)
    assert is_one_line(line)
    assert line.split() == one_sentence(" ".join(text.split())).split(), "what breaks a line is as good as a blank"
    assert one_sentence(line) == line


@given(st.text(st.characters(categories=["L", "N"]), max_size=LONGEST))
def test_a_sentence_that_is_short_enough_stays_as_it_is(text: str) -> None:
    assert one_sentence(text) == text


@EACH
def test_whatever_is_echoed_field_and_remedy_stay_readable(kind: type[Exception]) -> None:
    line = str(kind(f'AMDM co-model 2: "{"x" * 3_000_000}" is not in the list of adapters; choose one that is.'))
    assert is_one_line(line)
    assert line.startswith('AMDM co-model 2: "xxx') and "..." in line
    assert line.endswith('x" is not in the list of adapters; choose one that is.')
    assert str(kind("a\nname \udc80\u2028here")) == "a name ? here"
    assert str(pickle.loads(pickle.dumps(kind(line)))) == line


@given(ANY, st.integers(5, 40))
def test_a_clipped_text_keeps_its_ends(text: str, length: int) -> None:
    line = clipped(text, length)
    assert len(line) <= length
    assert line == text or (text.startswith(line[:1]) and text.endswith(line[-1:]) and "..." in line)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [
        10**5000,
        -(10**400),
        loop(),
        deep(100_000),
        Unshowable(),
        {Unshowable(): 1, "a": 2},
        "\ud800\n" * 99,
        b"\x00" * 999,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_any_kind_is_shown_shortly(value: Any) -> None:
    assert 0 < len(short(value)) <= 80
    assert is_one_line(one_sentence(short(value)))


def test_an_ordinary_value_is_shown_as_it_is_written() -> None:
    for value in (None, True, 7, 0.5, "a boy", [0, 0, 512, 512], {"phrase": "a", "box": [0, 1]}, ["a"], {}):
        assert short(value) == repr(value)


def test_a_large_value_is_not_written_out_to_be_shown() -> None:
    """A picture given in the wrong place is megabytes of text."""
    large = "x" * 3_000_000
    tracemalloc.start()
    for value in (large, [large] * 1000, {large: large}, (large,), large.encode()):
        assert "xxx" in short(value)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4_000_000, "its bytes, and no text of them"


def test_an_error_that_is_kept_keeps_nothing_of_what_failed() -> None:
    class Model:
        pass

    def run(model: Model) -> NoReturn:
        held = model  # what a frame refers to, its error refers to

        def inner() -> NoReturn:
            raise ValueError(f"{type(held)} failed")

        inner()

    def failed() -> tuple[Exception, weakref.ref[Model]]:
        model = Model()
        try:
            try:
                run(model)
            except ValueError as error:
                raise RuntimeError("in words") from error
        except RuntimeError as error:
            return error, weakref.ref(model)

    error, model = failed()
    assert model() is not None
    let_go(error)
    gc.collect()
    assert model() is None
