"""Which WebUI it is, found out by what is there; and what AMDM does in one that it cannot be used in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest

from lib_amdm.comodels.base import AmdmError
from lib_amdm.hosts import here
from lib_amdm.webui import refusal, run


@pytest.fixture(autouse=True)
def fresh_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports of a WebUI that it made up is forgotten again."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def made_up(folder: Path, offers: dict[str, tuple[str, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A WebUI's folder on the path, with these modules and nothing in them but these names."""
    for module, names in offers.items():
        *parents, name = module.split(".")
        place = folder.joinpath(*parents)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}.py").write_text("".join(f"{each} = None\n" for each in names))
    monkeypatch.syspath_prepend(str(folder))


def test_no_webui_at_all() -> None:
    with pytest.raises(here.UnknownHostError, match="none that it knows"):
        here.host()


@pytest.mark.parametrize("name", here.CAN)
def test_a_webui_that_can_what_one_can_but_lacks_the_rest(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for that one, and what its file imports in vain is said in one line."""
    made_up(tmp_path, here.CAN[name], monkeypatch)
    with pytest.raises(here.UnknownHostError, match=f"like {name}, but lacks something") as raised:
        here.host()
    assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)


def test_a_folder_that_is_merely_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(tmp_path, {"backend.loader": ("something",), "modules.sd_models": ("forge_model_reload",)}, monkeypatch)
    with pytest.raises(here.UnknownHostError, match="none that it knows"):
        here.host()


def test_the_line_stands_in_the_place_of_the_panel() -> None:
    with gr.Blocks() as page:
        components = refusal.build("AMDM cannot be used here: <why>.", lambda name: f"amdm_{name}")
    assert [component.value for component in components] == [False]
    told = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert told == ["AMDM cannot be used here: &lt;why&gt;."]


@pytest.mark.parametrize("args", [(), (False,), ({},), ({"enabled": False},), ({"co_models": []},)])
def test_a_picture_without_amdm_is_drawn_as_ever(args: tuple) -> None:
    assert refusal.answer("no", args) is None


@pytest.mark.parametrize("args", [(True,), ({"enabled": True, "steps": 3},), ({"enabled": "yes"}, False)])
def test_a_picture_that_asks_for_amdm_is_refused(args: tuple) -> None:
    sampler = SimpleNamespace(func=lambda model, x: x)
    run.attach(sampler, refusal.answer("AMDM cannot be used here.", args))
    with pytest.raises(AmdmError, match="cannot be used here"):
        sampler.func(None, 1)
