"""Compare: what each model draws alone, and that everything else of the picture stays."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from lib_amdm.settings import AUTO, AdapterSettings, CoModel, Settings, SettingsError
from lib_amdm.webui import compare

MODULES = "vae.safetensors, texts.gguf,"
BETA = CoModel(checkpoint="beta.safetensors [2222]", prompt="a hill", cfg_scale=3.0, modules=MODULES)
MAIN_AGAIN = CoModel(checkpoint="main", adapter="ip.safetensors", modules=MODULES)
SETTINGS = Settings(
    enabled=True,
    steps=AUTO,
    compare=True,
    main_adapter=AdapterSettings(adapter="own.bin"),
    co_models=(BETA, MAIN_AGAIN),
)


class Host:
    """Draws a word for what it was asked, and remembers in which order."""

    def __init__(self, fails_at: str = "", interrupted_after: int = 99, script: bool = False) -> None:
        self.fails_at, self.interrupted_after, self.script = fails_at, interrupted_after, script
        self.asked: list[Any] = []
        self.rounds = 0
        self.grid_text = ""

    def checkpoint_title(self, name: str) -> str:
        return name

    def is_inner(self, p: Any) -> bool:
        return False

    def runs_a_script(self, p: Any) -> bool:
        return self.script

    def snapshot(self, p: Any) -> Any:
        return SimpleNamespace(**vars(p))

    def redraw_job(self, before: Any, p: Any, model: Any) -> Any:
        return SimpleNamespace(words=model)

    def draw(self, p: Any) -> list[tuple[Any, str]]:
        if p.words[0] == self.fails_at and self.fails_at:
            raise RuntimeError("no room")
        self.asked.append(p)
        return [(f"picture {len(self.asked)}", f"text {len(self.asked)}")]

    def pictures_of(self, processed: Any) -> list[tuple[Any, str]]:
        return list(zip(processed.images, processed.infotexts))

    def grid(self, p: Any, columns: Any, text: str) -> Any:
        self.grid_text = text
        return [caption for caption, _ in columns]

    def expect_rounds(self, p: Any, rounds: int) -> None:
        self.rounds = rounds

    def is_interrupted(self) -> bool:
        return len(self.asked) >= self.interrupted_after


def compared(host: Host, settings: Settings = SETTINGS, **attributes: Any) -> Any:
    p, processed = SimpleNamespace(**attributes), SimpleNamespace(images=["it"], infotexts=["its"], comments="")
    compare.plan(host, p, lambda: settings)
    compare.finish(host, p, processed)
    assert vars(p) == attributes, "nothing is left on the picture"
    return processed


def test_the_grid_comes_first_then_each_model_alone() -> None:
    host = Host()
    processed = compared(host)
    captions = ["main model alone", "co-model 1 alone: beta", "co-model 2 alone: main", "together"]
    assert processed.images == ["it", captions, "picture 3", "picture 1", "picture 2"]
    assert processed.infotexts == ["its", "its", "text 3", "text 1", "text 2"]
    assert host.grid_text == "its"
    assert host.rounds == 4


def test_each_model_has_its_own_words_and_adapter_and_nothing_beside_it() -> None:
    host = Host()
    compared(host)
    beta, again, main = host.asked
    assert beta.words == ("beta.safetensors [2222]", "a hill", "", 3.0, ["vae.safetensors", "texts.gguf"])
    assert again.words == main.words == ("", "", "", 0.0, ())
    for asked, adapter in ((beta, "None"), (again, "ip.safetensors"), (main, "own.bin")):
        settings = getattr(asked, compare.SETTINGS)
        assert not settings.mixes and not settings.compare
        assert settings.main_adapter.adapter == adapter


@pytest.mark.parametrize(
    ("after", "columns"),
    [
        (1, ["co-model 1 alone: beta (interrupted)", "together"]),
        (2, ["co-model 1 alone: beta", "co-model 2 alone: main (interrupted)", "together"]),
        (3, ["main model alone (interrupted)", "co-model 1 alone: beta", "co-model 2 alone: main", "together"]),
    ],
)
def test_after_an_interrupt_the_grid_has_what_was_drawn_by_then(after: int, columns: list[str]) -> None:
    host = Host(interrupted_after=after)
    processed = compared(host)
    assert len(host.asked) == after
    assert processed.images[:2] == ["it", columns]
    assert len(processed.images) == len(processed.infotexts) == 2 + after


def test_an_interrupt_of_the_picture_itself_leaves_nothing_to_compare() -> None:
    host = Host(interrupted_after=0)
    assert compared(host).images == ["it"] and not host.asked


def test_what_cannot_be_drawn_is_said_and_the_picture_stays() -> None:
    processed = compared(Host(fails_at="beta.safetensors [2222]"))
    assert processed.images == ["it"]
    assert "comparing ended at co-model 1 alone: beta (RuntimeError: no room)" in processed.comments
    settings = replace(SETTINGS, co_models=(MAIN_AGAIN, BETA))
    processed = compared(Host(fails_at="beta.safetensors [2222]"), settings)
    assert processed.images == ["it", ["co-model 1 alone: main", "together"], "picture 1"]
    assert "comparing ended at co-model 2 alone: beta (RuntimeError: no room)" in processed.comments


@pytest.mark.parametrize(
    "settings",
    [
        Settings(enabled=True, co_models=(BETA,)),
        Settings(enabled=False, compare=True, co_models=(BETA,)),
        Settings(enabled=True, compare=True),
        Settings(enabled=True, compare=True, steps=0, co_models=(BETA,)),
    ],
)
def test_nothing_is_drawn_where_nothing_is_compared(settings: Settings) -> None:
    host = Host()
    assert compared(host, settings).images == ["it"] and not host.asked


def test_neither_plots_nor_the_compared_pictures_themselves_are_compared() -> None:
    assert compared(Host(script=True)).images == ["it"]
    assert compared(Host(), **{compare.SETTINGS: SETTINGS}).images == ["it"]


def test_settings_that_cannot_be_read_are_left_to_the_pass() -> None:
    def wrong() -> Settings:
        raise SettingsError("AMDM: wrong")

    p = SimpleNamespace()
    compare.plan(Host(), p, wrong)
    assert not vars(p)
