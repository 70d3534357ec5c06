"""A co-model's prompt: the main one, alone or in a text, and the styles that it names."""

from __future__ import annotations

import pytest

from lib_amdm.comodels.prompts import is_main_prompt, prompt_of, split_styles
from lib_amdm.settings import CoModel, specs


@pytest.mark.parametrize("own", ["", " ", "\n", "{prompt}", " {prompt}\n"])
def test_an_empty_prompt_is_the_main_one(own: str) -> None:
    assert is_main_prompt(own) and prompt_of(own, "a cat") == "a cat"


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_the_panel_says_what_an_empty_prompt_means(field: str) -> None:
    spec = next(spec for spec in specs(CoModel) if spec.name == field)
    assert spec.default == "" and f"empty = the main {field.replace('_', ' ')}" in spec.help


@pytest.mark.parametrize("own", ["a {red|blue} cat ,", "{style}", "{style:}", "{prompt}, __animal__", ""])
def test_a_text_without_styles_stays_as_it_is(own: str) -> None:
    assert split_styles(own) == (own, [])


@pytest.mark.parametrize(
    ("own", "text", "names"),
    [
        ("a cat, {style:ink}", "a cat", ["ink"]),
        ("{style: Pony, best }{style:ink}, a cat", "a cat", ["Pony, best", "ink"]),
        ("{style:ink}", "{prompt}", ["ink"]),
        ("{prompt}, at night {style:ink}", "{prompt}, at night", ["ink"]),
    ],
)
def test_styles_are_taken_out_of_a_text_and_alone_mean_the_main_prompt(own: str, text: str, names: list[str]) -> None:
    assert split_styles(own) == (text, names)
