"""The words and marks for checkpoints that do not go with the main one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import unescape

import pytest
from fake_host import TITLES, FakeHost

from lib_amdm.families import Family
from lib_amdm.settings import CoModel, Settings
from lib_amdm.webui import fitting, plan_line

SD1, SDXL = Family("SD1"), Family("SDXL")
ALPHA, BETA, GAMMA = TITLES


@pytest.fixture
def host() -> FakeHost:
    """A host whose main checkpoint is the first, and whose third says nothing of itself."""
    host = FakeHost()
    host.main, host.families = ALPHA, {ALPHA: SD1, BETA: SDXL}
    return host


def marked(host: FakeHost, main: str, on_page: Sequence[str] = TITLES) -> dict[str, str]:
    """The entries of a page's list that the style sheet marks, with what it writes behind them."""
    sheet = fitting.marks(host, main, [*host.titles])
    found = {}
    for selectors, family in re.findall(r'li:is\(([^{]*?)\)::after\{content:"(.*?)"', sheet):
        for beginning, name in re.findall(r'aria-label(\^?)="(.*?)"', selectors):
            fits = str.startswith if beginning else str.__eq__
            found |= {title: family for title in on_page if fits(title, name)}
    return found


def test_what_does_not_go_with_the_main_checkpoint_is_marked_with_its_family(host: FakeHost) -> None:
    assert marked(host, ALPHA) == {BETA: r"\b7  SDXL"}
    assert list(marked(host, BETA)) == [ALPHA]
    for unknown in (GAMMA, "lost", ""):
        assert fitting.marks(host, unknown, TITLES) == ""


def test_the_pages_list_is_marked_when_the_hosts_titles_have_got_their_hashes_since(host: FakeHost) -> None:
    bare = [title.partition(" [")[0] for title in TITLES]
    assert marked(host, ALPHA, bare) == {bare[1]: r"\b7  SDXL"}
    before = marked(host, ALPHA, [*TITLES, "styles/beta.safetensors.ckpt", "beta.safetensors"])
    host.titles, host.families = bare, {bare[0]: SD1, bare[1]: SDXL}
    assert list(marked(host, ALPHA, TITLES)) == list(before) == [BETA]


def test_a_title_cannot_end_the_sheet_or_its_string(host: FakeHost) -> None:
    host.titles = ['</style><b>"];*{}\\\n.safetensors']
    host.families[host.titles[0]] = SDXL
    host.titles.append(ALPHA)
    sheet = fitting.marks(host, ALPHA, host.titles)
    assert sheet.count("<") == 2 and "\n" not in sheet and sheet.count("*") == 0
    assert r'b\3e \22 ]\3b \2a \7b \7d \5c \a .safetensors"' in sheet


def test_the_line_names_the_misfit_before_a_picture(host: FakeHost) -> None:
    settings = Settings(enabled=True, co_models=(CoModel(checkpoint=BETA), CoModel(checkpoint=GAMMA)))
    said = plan_line.say(settings, host)
    assert re.fullmatch(
        'Co-model 1: "styles/beta.*" is SDXL, but the main checkpoint "alpha.*" is SD1.', unescape(said)
    )
    assert "Co-model 2" not in said
    assert plan_line.say(settings, host, BETA) == "", "the page's own control has the last word"
    idle = Settings(enabled=True, co_models=(CoModel(checkpoint=BETA, enabled=False), CoModel(checkpoint="main")))
    assert "but the main" not in plan_line.say(idle, host)
