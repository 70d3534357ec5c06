"""A picture's entries for its details, and their settings, in ADetailer's order of calls."""

from __future__ import annotations

from copy import copy
from types import SimpleNamespace
from typing import Any

import pytest

from lib_amdm.hosts.protocol import Ran
from lib_amdm.settings import CoModel, Settings, SettingsError
from lib_amdm.webui import compare, infotext, xyz
from lib_amdm.webui.details import Details, join, say_if_none

RAN = Ran(2, 4, [("other.safetensors", 3)], None, None)
LINE = infotext.ran_line(RAN)
SLOTS = (CoModel(checkpoint="other"),)


class Host:
    """A WebUI's comments, and what joined its details."""

    def __init__(self) -> None:
        self.joined: list[str] = []

    def comment(self, p: Any, text: str) -> None:
        p.comments[text] = 1

    def comments(self, p: Any) -> Any:
        return p.comments

    def join_details(self, p: Any, script: str) -> None:
        self.joined.append(script)


def new_host() -> Any:
    return Host()


def picture(**entries: Any) -> Any:
    return SimpleNamespace(comments={}, extra_generation_params={"Model": "main", **entries})


def of_first() -> dict[str, Any]:
    return {"AMDM pass": "all", **infotext.with_run({}, "first", RAN)}


def draw_detail(details: Details, host: Any, p: Any, says: str = "") -> None:
    """Draw one as ADetailer does, which begins a copy of the picture again after each batch."""
    detail = picture()
    details.hand_on(detail)
    details.follow(host, detail)
    if says:
        host.comment(detail, says)
    number = len(details.entries.get(infotext.PASSES, ())) + 1
    details.entries.update({"AMDM pass": "all", **infotext.with_run(details.entries, f"detail {number}", RAN)})
    details.begin(copy(p))


@pytest.mark.parametrize("first", [False, True])
def test_each_picture_of_a_batch_has_its_own_details(first: bool) -> None:
    host, details, p = new_host(), Details(), picture()
    details.begin(p)
    said = []
    for counts in ([2, 0, 1], [0, 1]):
        details.forget(p)
        if first:
            p.extra_generation_params.update(of_first())
        for count in counts:
            for _ in range(count):
                draw_detail(details, host, p)
            details.write(host, p)
            said.append((p.extra_generation_params.get("AMDM ran", ""), p.extra_generation_params.get("AMDM pass")))
    begun, which = ([LINE], "all") if first else ([], None)
    expected = []
    for count in (2, 0, 1, 0, 1):
        lines = [*begun, *(f"detail {number + 1}: {LINE}" for number in range(count))]
        expected.append(("; ".join(lines), "all" if count else which))
    assert said == expected
    assert p.extra_generation_params["Model"] == "main"


def test_the_next_request_with_the_same_object_knows_nothing_of_the_last() -> None:
    host, details, p = new_host(), Details(), picture()
    details.begin(p)
    draw_detail(details, host, p)
    details.write(host, p)
    p.extra_generation_params = infotext.without(p.extra_generation_params)
    details.begin(p)
    details.forget(p)
    assert p.extra_generation_params == {"Model": "main"}


def test_only_amdms_comments_of_a_detail_are_the_pictures() -> None:
    host, details, p = new_host(), Details(), picture()
    details.begin(p)
    for says in ("AMDM co-model 1: broken.", "another extension's"):
        draw_detail(details, host, p, says)
    details.write(host, p)
    assert list(p.comments) == ["AMDM co-model 1: broken."]


def test_a_detail_has_the_settings_of_its_pictures_cell_or_comparison() -> None:
    details, p, detail = Details(), picture(), picture()
    vars(p).update({xyz.HELD_IN: {"gamma": 0.2}, compare.SETTINGS: Settings()})
    details.begin(p)
    details.hand_on(detail)
    assert vars(detail)[xyz.HELD_IN] == {"gamma": 0.2} and vars(detail)[compare.SETTINGS] == Settings()
    details.begin(picture())
    other = picture()
    details.hand_on(other)
    assert not {xyz.HELD_IN, compare.SETTINGS} & set(vars(other))


@pytest.mark.parametrize("which", ["first", "hires", "both", "detailer", "all"])
@pytest.mark.parametrize("enabled", [False, True])
def test_amdm_joins_the_details_that_its_settings_include(which: str, enabled: bool) -> None:
    host = new_host()
    settings = Settings(enabled=enabled, which_pass=which, co_models=SLOTS)
    join(host, picture(), lambda: settings, "amdm.py")
    assert bool(host.joined) == (enabled and which in ("detailer", "all"))


def test_invalid_settings_join_nothing() -> None:
    def wrong() -> Settings:
        raise SettingsError("AMDM: wrong")

    host = new_host()
    join(host, picture(), wrong, "amdm.py")
    assert host.joined == []


@pytest.mark.parametrize("which", ["first", "detailer", "all"])
@pytest.mark.parametrize("drawn", [False, True])
def test_details_that_never_come_are_said(which: str, drawn: bool) -> None:
    host, details, p = new_host(), Details(), picture()
    details.begin(p)
    if drawn:
        draw_detail(details, host, p)
    details.write(host, p)
    processed: Any = SimpleNamespace(comments="")
    say_if_none(p, processed, lambda: Settings(enabled=True, which_pass=which, co_models=SLOTS))
    assert ("drew no detail" in processed.comments) == (which == "detailer" and not drawn)
