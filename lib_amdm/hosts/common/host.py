"""What A1111 and its relatives have in common: their lists, their page and their API, in modules of the same names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from modules import paths_internal, script_callbacks, scripts, sd_models, shared
from modules.initialize_util import get_gradio_auth_creds
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion, ToolButton

from ...comodels.adapter_use import Adapters
from ...comodels.cache import InMemory, Pool, Recent
from ...comodels.file_list import Folder, find_title, lists, model_folders, readable
from .login import guard
from .lora import LORA_FILES_KEPT


class WebUIHost:
    """A WebUI as `hosts.protocol.Host` describes it, without a way to run co-models in it.

    The pool of co-models lives and dies with this object.
    """

    name: str

    def __init__(self) -> None:
        self.pool = Pool()
        self.main_texts = Recent()
        self.lora_files = Recent(LORA_FILES_KEPT)
        self.adapters = Adapters(*lists(lambda: _folders()[0], lambda: _folders()[1]))

    def free(self) -> None:
        """Give back the memory of co-models that nothing refers to any more."""
        raise NotImplementedError

    def is_hires_pass(self, p: Any) -> bool:
        return bool(p.is_hr_pass)

    def is_inner(self, p: Any) -> bool:
        return bool(getattr(p, "_ad_inner", False))

    def comment(self, p: Any, text: str) -> None:
        p.comment(text)

    def checkpoint_titles(self) -> list[str]:
        return [readable(title) for title in sd_models.checkpoint_tiles()]

    def checkpoint_title(self, name: str) -> str | None:
        info = find_checkpoint(name)
        return readable(info.title) if info else None

    def refresh_checkpoints(self) -> None:
        sd_models.list_models()

    def adapter_titles(self) -> list[str]:
        return self.adapters.files.titles()

    def adapter_title(self, name: str) -> str | None:
        return self.adapters.files.title(name)

    def refresh_adapters(self) -> None:
        self.adapters.refresh()

    def loaded(self) -> list[InMemory]:
        return self.pool.listing() + self.adapters.listing()

    def unload(self) -> list[InMemory]:
        self.lora_files.clear()
        entries = self.pool.unload() + self.adapters.unload()
        self.free()
        return entries

    def trim(self, limit: int, adapters: int) -> None:
        """Keep no more than `limit` co-models. adapters: how many the last pass used."""
        if self.pool.trim(limit) + self.adapters.trim(limit, adapters):
            self.free()

    def input_accordion(self, value: bool, label: str, elem_id: str) -> Any:
        return InputAccordion(value, label=label, elem_id=elem_id)

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any:
        return create_refresh_button(component, refresh, choices, elem_id)

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any:
        return ToolButton(value=text, elem_id=elem_id, tooltip=tooltip)

    def xyz_module(self) -> ModuleType | None:
        names = ("xyz_grid.py", "scripts.xyz_grid")
        return next((data.module for data in scripts.scripts_data if data.script_class.__module__ in names), None)

    def option(self, name: str) -> Any:
        return getattr(shared.opts, name)

    def add_option(
        self,
        name: str,
        default: Any,
        label: str,
        component: Any,
        component_args: dict[str, Any],
        section: tuple[str, str],
        info: str,
    ) -> None:
        option = shared.OptionInfo(default, label, component, component_args, section=section)
        shared.opts.add_option(name, option.info(info))

    def on_before_ui(self, callback: Callable) -> None:
        _register("before_ui", callback)

    def on_ui_settings(self, callback: Callable) -> None:
        _register("ui_settings", callback)

    def on_app_started(self, callback: Callable) -> None:
        _register("app_started", callback)

    def on_infotext_pasted(self, callback: Callable) -> None:
        _register("infotext_pasted", callback)

    def has_api(self) -> bool:
        return bool(shared.cmd_opts.api or shared.cmd_opts.nowebui)

    def api_auth(self) -> list[Any]:
        given = shared.cmd_opts.api_auth
        if given:
            return guard(dict(login.strip().split(":", 1) for login in given.split(",")))
        # what the page does not show to everybody, the routes do not tell everybody
        return guard(dict(get_gradio_auth_creds()))


def find_checkpoint(name: str) -> sd_models.CheckpointInfo | None:
    """The list's own entry for a name, hash or title, never a path: the host's list decides what can be loaded."""
    known = sd_models.checkpoint_aliases
    found = known.get(name) or known.get(name.rsplit(" [", 1)[0])
    if found is None:
        spelt = {readable(alias): alias for alias in known}
        title = find_title(name, spelt)
        found = known[spelt[title]] if title else None
    return found


def _folders() -> tuple[list[Folder], list[Folder]]:
    """Where adapters and image encoders are, those that the user has named to ControlNet included."""
    extensions = Path(paths_internal.extensions_dir)
    installed = sorted(extensions.iterdir()) if extensions.is_dir() else []
    adapters, encoders = model_folders(Path(paths_internal.models_path), installed)
    named = (getattr(shared.cmd_opts, "controlnet_dir", None), shared.opts.data.get("control_net_models_path"))
    return [*adapters, *(Folder(Path(path)) for path in named if path)], encoders


def _register(category: str, callback: Callable) -> None:
    """Register a callback as this file's; to find that out itself, the host walks the call stack, some 30 ms a time."""
    callbacks = script_callbacks.callback_map[f"callbacks_{category}"]
    script_callbacks.add_callback(callbacks, callback, category=category, filename=__file__)
