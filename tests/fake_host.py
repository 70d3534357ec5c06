"""A WebUI that is not there: what the page, the plot and the API need of one, in memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lib_amdm.adapters.base import AdapterInfo
from lib_amdm.comodels.cache import InMemory
from lib_amdm.families import Family

TITLES = ("alpha.safetensors [1111111111]", "styles/beta.safetensors [2222222222]", "gamma, the third.ckpt")


ADAPTERS = ("ip-adapter_sd15.safetensors", "interact/ext_interactdiff_v1.2.pth")


class AxisOption:
    """The part of an axis that the WebUI's plot keeps."""

    def __init__(
        self,
        label: str,
        type: Any,
        apply: Any,
        format_value: Any = None,
        confirm: Any = None,
        cost: float = 0.0,
        choices: Any = None,
        prepare: Any = None,
    ) -> None:
        self.label, self.type, self.apply, self.format_value = label, type, apply, format_value
        self.confirm, self.cost, self.choices, self.prepare = confirm, cost, choices, prepare


if TYPE_CHECKING:
    # it has the parts of a host that a test needs, and passes for a whole one
    Part: Any
else:
    Part = object


class FakeHost(Part):
    """Keeps what is registered, and fires it on demand."""

    name = "fake"
    runs_flow_models = False
    token_count: Any = None

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.added: dict[str, dict[str, Any]] = {}
        self.titles = list(TITLES)
        self.adapters = list(ADAPTERS)
        self.pool = [InMemory("checkpoint", "<b>eta</b>", 2_100_000_000), InMemory("adapter", ADAPTERS[0], 44_000_000)]
        self.callbacks: dict[str, list[Callable]] = {}
        self.xyz = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, None)])
        self.api = True
        self.auth: list[Any] = []
        self.refreshed = 0
        self.families: dict[str, Family] = {}
        self.main = ""

    def is_inner(self, p: Any) -> bool:
        return False

    def fire(self, event: str, *args: Any) -> None:
        for callback in self.callbacks.get(event, []):
            callback(*args)

    def checkpoint_titles(self) -> list[str]:
        return list(self.titles)

    def checkpoint_title(self, name: str) -> str | None:
        def plain(title: str) -> str:
            return title.partition(" [")[0]

        return next((title for title in self.titles if plain(title) == plain(name)), None)

    def checkpoint_family(self, name: str) -> Family | None:
        title = self.checkpoint_title(name)
        return self.families.get(title) if title else None

    def main_checkpoint(self) -> str:
        return self.main

    def refresh_checkpoints(self) -> None:
        self.refreshed += 1

    def adapter_titles(self) -> list[str]:
        return list(self.adapters)

    def adapter_title(self, name: str) -> str | None:
        return name if name in self.adapters else None

    def adapter_info(self, name: str) -> AdapterInfo | None:
        kinds = {True: ("ip-adapter", "plain"), False: ("gligen", "text")}
        kind, variant = kinds["ip-adapter" in name]
        return AdapterInfo(kind, "SD1", variant, name) if name in self.adapters else None

    def refresh_adapters(self) -> None:
        self.refreshed += 1

    def loaded(self) -> list[InMemory]:
        return list(self.pool)

    def unload(self) -> list[InMemory]:
        entries = list(self.pool)
        self.pool.clear()
        return entries

    def option(self, name: str) -> Any:
        if name not in self.options:
            raise AttributeError(name)
        return self.options[name]

    def add_option(
        self, name: str, default: Any, label: str, component: Any, component_args: Any, section: Any, info: str
    ) -> None:
        assert name not in self.added
        self.added[name] = {
            "default": default,
            "label": label,
            "component": component,
            "args": component_args,
            "section": section,
            "info": info,
        }

    def xyz_module(self) -> Any:
        return self.xyz

    def has_api(self) -> bool:
        return self.api

    def api_auth(self) -> list[Any]:
        return self.auth

    def on(self, moment: str, callback: Callable) -> None:
        self.callbacks.setdefault(moment, []).append(callback)

    def on_main_checkpoint(self, callback: Callable[[Any], None]) -> None:
        self.on("main_checkpoint", callback)


def functions(of: type) -> dict[str, Callable]:
    return {name: each for name, each in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


def parameters(function: Callable) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]
