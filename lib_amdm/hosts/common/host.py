"""A1111 or a WebUI derived from it: its lists, page and API, in modules of the same names on all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from modules import script_callbacks, scripts, sd_models, shared
from modules.initialize_util import get_gradio_auth_creds
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion, ToolButton

from ...adapters.base import AdapterInfo
from ...comodels.cache import InMemory
from ...comodels.file_list import readable
from ...errors import AmdmError
from ...families import Family
from ..detect import lacks
from ..protocol import PassOptions
from ..webui_types import Processing
from . import detailer, drawing
from .checkpoint_list import find_checkpoint
from .kept import Kept
from .login import guard
from .main_checkpoint import is_main_checkpoint

if TYPE_CHECKING:
    from .backend import Backend
    from .pass_run import PassRun


COUNTED_STEPS = 20
"""The length of a picture whose prompts change between its steps, for counting their tokens."""


class WebUIHost:
    """A WebUI as `hosts.protocol.Host` describes it. What is kept in memory lives as long as this object."""

    def __init__(self, name: str, package: str, free: Callable[[], None], runs_flow_models: bool = False) -> None:
        """Make the host of a folder, `package`, with its `backend`.

        free, runs_flow_models: see `Kept`.
        """
        self.name, self.package, self.memory = name, package, Kept(free, runs_flow_models)

    @property
    def runs_flow_models(self) -> bool:
        return self.memory.runs_flow_models

    def run(self, p: Processing, options: PassOptions, hook: Mapping[str, Any], sampler: Callable[..., Any]) -> PassRun:
        try:
            # imported with the first picture: a start does not need it
            from .pass_run import PassRun

            make: Callable[[PassRun], Backend] = import_module(f"{self.package}.backend").backend
            return PassRun(self.memory, make, p, options, hook, sampler)
        except ImportError as error:
            raise AmdmError(lacks(self.name, error)) from error

    def is_hires_pass(self, p: Processing) -> bool:
        return bool(p.is_hr_pass)

    def is_inner(self, p: Processing) -> bool:
        return detailer.is_detail(p)

    def join_details(self, p: Processing, script: str) -> None:
        detailer.join(p, script)

    def comments(self, p: Processing) -> Mapping[str, Any]:
        return p.comments

    def comment(self, p: Processing, text: str) -> None:
        p.comment(text)

    runs_a_script = staticmethod(drawing.runs_a_script)
    snapshot = staticmethod(drawing.snapshot)
    redraw_job = staticmethod(drawing.redraw_job)
    draw = staticmethod(drawing.draw)
    pictures_of = staticmethod(drawing.pictures_of)
    grid = staticmethod(drawing.grid)
    expect_rounds = staticmethod(drawing.expect_rounds)
    is_interrupted = staticmethod(drawing.is_interrupted)

    def checkpoint_titles(self) -> list[str]:
        # the host's own function for this gives names without hashes on Forge and Forge Neo
        return [readable(info.title) for info in sd_models.checkpoints_list.values()]

    def checkpoint_title(self, name: str) -> str | None:
        info = find_checkpoint(name)
        return readable(info.title) if info else None

    def checkpoint_family(self, name: str) -> Family | None:
        info = find_checkpoint(name)
        return self.memory.families.of(info.filename) if info else None

    def main_checkpoint(self) -> str:
        return shared.opts.sd_model_checkpoint or ""

    def refresh_checkpoints(self) -> None:
        sd_models.list_models()

    def adapter_titles(self) -> list[str]:
        return self.memory.adapters.files.titles()

    def adapter_title(self, name: str) -> str | None:
        return self.memory.adapters.files.title(name)

    def adapter_info(self, name: str) -> AdapterInfo | None:
        return self.memory.adapters.info(name)

    def refresh_adapters(self) -> None:
        self.memory.adapters.refresh()

    def loaded(self) -> list[InMemory]:
        return self.memory.listing()

    def unload(self) -> list[InMemory]:
        return self.memory.unload()

    def input_accordion(self, value: bool, label: str, elem_id: str) -> Any:
        return InputAccordion(value, label=label, elem_id=elem_id)

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any:
        return create_refresh_button(component, refresh, choices, elem_id)

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any:
        return ToolButton(value=text, elem_id=elem_id, tooltip=tooltip)

    def token_count(self, text: str, styles: Sequence[str], is_negative: bool) -> str:
        # the first imports the whole page, which is not there yet when this file is loaded
        from modules import ui
        from modules.call_queue import queue_lock

        with queue_lock:
            shown: str = ui.update_token_counter(text, COUNTED_STEPS, list(styles), is_positive=not is_negative)
        return shown

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

    def on(self, moment: str, callback: Callable) -> None:
        # as this file's; to find that out itself, the host walks the call stack, some 30 ms a time
        callbacks = script_callbacks.callback_map[f"callbacks_{moment}"]
        script_callbacks.add_callback(callbacks, callback, category=moment, filename=__file__)

    def on_main_checkpoint(self, callback: Callable[[Any], None]) -> None:
        def notify(control: Any, **arguments: Any) -> None:
            if is_main_checkpoint(control, arguments):
                callback(control)

        self.on("after_component", notify)

    def has_api(self) -> bool:
        return bool(shared.cmd_opts.api or shared.cmd_opts.nowebui)

    def api_auth(self) -> list[Any]:
        pairs = shared.cmd_opts.api_auth
        if pairs:
            return guard(dict(login.strip().split(":", 1) for login in pairs.split(",")))
        # the routes must not show more than the page does
        return guard(dict(get_gradio_auth_creds()))
