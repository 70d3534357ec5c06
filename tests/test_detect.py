"""Recognising a WebUI by what is there; AMDM in one that it cannot be used in, or not yet."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from fake_host import FakeHost

from lib_amdm.errors import AmdmError
from lib_amdm.hosts import detect as here
from lib_amdm.hosts.protocol import PassOptions
from lib_amdm.webui import refusal

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "amdm.py"


@pytest.fixture(autouse=True)
def fresh_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of a WebUI that a test made up are forgotten again."""
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
        (place / f"{name}.py").write_text(_defined(names))
    monkeypatch.syspath_prepend(str(folder))


def _defined(names: Iterable[str]) -> str:
    """A module with these names, of which some are attributes of a class: `Class.name`."""
    classes = defaultdict(list)
    for owner, _, part in (name.rpartition(".") for name in names):
        classes[owner].append(part)
    plain = [f"{name} = None\n" for name in classes.pop("", [])]
    return "".join([*plain, *(f"class {owner}:\n    {' = '.join(parts)} = None\n" for owner, parts in classes.items())])


def too_old(name: str) -> dict[str, tuple[str, ...]]:
    """The offer of the WebUI of that name, in the time before it called a script at every sampling."""
    return {**here.CAN[name], "modules.scripts": ("Script.process", "AlwaysVisible")}


def neo_without(module: str) -> dict[str, tuple[str, ...]]:
    """Forge Neo's parts, of which one lacks what tells it from Forge."""
    offers = here.CAN["neo"]
    left = tuple(name for name in offers[module] if name not in ("HF", offers["backend.args"][0]))
    return {**offers, module: left}


NONE = "this WebUI is not supported"
OTHERS: dict[str, tuple[dict[str, tuple[str, ...]], str]] = {
    "nothing": ({}, NONE),
    "merely called the same": ({"backend.loader": ("something",), "modules.sd_models": ("forge_model_reload",)}, NONE),
    # its parts have Forge's names, and what is done with Forge's would fail in the middle of a picture
    "Forge Neo in another form": (neo_without("backend.args"), NONE),
    "Forge Neo in a third form": (neo_without("backend.loader"), NONE),
    # its arguments are a dictionary
    "Forge": ({**here.CAN["forge"], "backend.args": ("dynamic_args",)}, "like forge, but lacks something"),
    **{
        f"old {name}": (too_old(name), r"too old .* update it \(AUTOMATIC1111 to 1\.10 or newer\)\.$")
        for name in here.CAN
    },
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_webui_is_refused_in_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offers, said = OTHERS[kind]
    made_up(tmp_path, offers, monkeypatch)
    with pytest.raises(here.UnknownHostError, match=said) as raised:
        here.host()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", here.CAN)
def test_a_webui_that_can_what_one_can_but_lacks_the_rest(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken for that one, and what its file imports in vain is said in one line."""
    made_up(tmp_path, here.CAN[name], monkeypatch)
    with pytest.raises(here.UnknownHostError, match=f"like {name}, but lacks something") as raised:
        here.host()
    assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)


def in_full(name: str) -> dict[str, tuple[str, ...]]:
    """Everything that a host's files need, by module."""
    tables = (here.CAN[name], here.NEEDS[name])
    return {module: tuple(n for table in tables for n in table.get(module, ())) for table in tables for module in table}


EVERY_NAME = [
    (host, module, name) for host in here.NEEDS for module, names in here.NEEDS[host].items() for name in names
]


@pytest.mark.parametrize(("host", "module", "name"), EVERY_NAME)
def test_a_name_that_every_picture_needs_is_missed_at_the_start(
    host: str, module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = in_full(host)
    made_up(tmp_path, {**offers, module: tuple(each for each in offers[module] if each != name)}, monkeypatch)
    with pytest.raises(here.UnknownHostError, match=re.escape(f"like {host}, but lacks something ({module}.{name});")):
        here.host()


OPTIONAL = {"backend.nn.anima.LLMAdapter"}
"""Names that only some pictures need."""


def test_what_the_files_for_forge_neo_take_of_it_is_in_the_tables() -> None:
    """Imports, and attributes of what is imported."""
    listed = {f"{module}.{name}" for module, names in in_full("neo").items() for name in names}
    listed |= {entry.rpartition(".")[0] for entry in listed}
    taken: set[str] = set()
    for file in sorted((Path(here.__file__).parent / "neo").glob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        imported = {
            alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            and (node.module or "").partition(".")[0] in ("backend", "modules_forge")
            for alias in node.names
        }
        attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
        of_imported = {
            f"{imported[node.value.id]}.{node.attr}"
            for node in attributes
            if isinstance(node.value, ast.Name) and node.value.id in imported
        }
        taken |= {*imported.values(), *of_imported}
    # a class has more than it is looked at for
    assert {name for name in taken - listed - OPTIONAL if "IntegratedAutoencoderKL." not in name} == set()
    assert taken >= {"backend.args.dynamic_args.ref_latents", "backend.memory_management.vae_dtype", *OPTIONAL}


PAGE = {
    "modules.extra_networks": ("re_extra_net",),
    "modules.images": (),
    "modules.initialize_util": ("get_gradio_auth_creds",),
    "modules.paths_internal": ("models_path",),
    "modules.processing": (),
    "modules.script_callbacks": ("callback_map",),
    "modules.scripts": ("scripts_data",),
    "modules.sd_models": ("checkpoints_list",),
    "modules.shared": ("opts",),
    "modules.ui_common": ("create_refresh_button",),
    "modules.ui_components": ("InputAccordion", "ToolButton"),
}
"""The parts of a WebUI that AMDM's panel needs."""


def test_what_only_a_picture_needs_is_missed_with_the_first_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up(tmp_path, PAGE, monkeypatch)
    host = importlib.import_module("lib_amdm.hosts.common.host").WebUIHost(
        "A1111", "lib_amdm.hosts.a1111", lambda: None
    )
    with pytest.raises(AmdmError, match="like A1111, but lacks something") as raised:
        host.run(SimpleNamespace(), PassOptions(), {}, print)
    assert "\n" not in str(raised.value) and str(tmp_path) not in str(raised.value)


def test_the_line_stands_in_the_place_of_the_panel() -> None:
    with gr.Blocks() as page:
        components = refusal.build("AMDM cannot be used here: <why>.", lambda name: f"amdm_{name}")
    assert [component.value for component in components] == [False]
    shown = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert shown == ["AMDM cannot be used here: &lt;why&gt;."]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """AMDM's script as a WebUI loads it that is too old."""
    made_up(tmp_path, too_old("a1111"), monkeypatch)
    return loaded().Script()


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("amdm_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Picture:
    """The parts with which a WebUI draws a picture."""

    def __init__(self) -> None:
        self.extra_generation_params = {"Model": "main"}

    def sample(self, conditioning: object) -> str:
        return "drawn"


@pytest.mark.parametrize("args", [(), (False,), ({},), ({"enabled": False},), ({"co_models": []},)])
def test_a_picture_without_amdm_is_drawn_as_ever(script: Any, args: tuple) -> None:
    p = Picture()
    before = {**vars(p), "extra_generation_params": dict(p.extra_generation_params)}
    script.process(p, *args)
    assert vars(p) == before and p.sample(conditioning=None) == "drawn"


@pytest.mark.parametrize("args", [(True,), ({"enabled": True, "steps": 3},), ({"enabled": "yes"}, False)])
def test_a_picture_that_asks_for_amdm_is_refused_though_the_webui_never_calls_the_hook(
    script: Any, args: tuple
) -> None:
    p, other = Picture(), Picture()
    script.process(p, *args)
    with pytest.raises(AmdmError, match="too old"):
        p.sample(conditioning=None)
    assert other.sample(conditioning=None) == "drawn"


def test_the_hook_does_nothing_where_there_is_no_host(script: Any) -> None:
    p = SimpleNamespace(sampler=SimpleNamespace(func=len))
    script.process_before_every_sampling(p, False, x=None)
    assert vars(p.sampler) == {"func": len}


def test_a_picture_that_comes_with_no_arguments_is_drawn_without_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host is asked for nothing but what it is registered with, and whether the picture is a detail."""
    made_up(tmp_path, {"modules.scripts": ("Script.process", "AlwaysVisible")}, monkeypatch)
    monkeypatch.setattr(here, "host", FakeHost)
    script, p = loaded().Script(), SimpleNamespace(sampler=SimpleNamespace(func=len), extra_generation_params={})
    script.process(p)
    script.process_before_every_sampling(p, x=None)
    assert vars(p.sampler) == {"func": len}
