"""The protocols of a WebUI as AMDM uses it; the hosts in this folder's folders fulfil them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..adapters.base import AdapterInfo
from ..comodels.cache import InMemory
from ..families import Family
from ..settings import AdapterSettings, CoModel
from .webui_types import Processed, Processing

if TYPE_CHECKING:
    from ..core.arguments import CoRun, Pass


class Ran(NamedTuple):
    """The part of a pass that ran beside the main model.

    steps: how many of `pass_steps` were mixed. evaluations: of each co-model (title, number). seconds: what the
    co-models took of `pass_seconds`; None where the device cannot say.
    """

    steps: int
    pass_steps: int
    evaluations: Sequence[tuple[str, int]]
    seconds: float | None
    pass_seconds: float | None


class HostRun(Protocol):
    """One pass of one batch on a host: what the co-models need to be run beside the main model.

    stopped: True once the main model goes on alone before its time, and the picture's comments say why.
    """

    stopped: bool

    def load_co_models(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        """The co-models of the slots (number, settings), loaded and with their texts encoded; AmdmError in words."""

    def adapt_main(self, settings: AdapterSettings) -> None:
        """Prepare the adapter that works on the main model from `start` to `finish`; AmdmError in words."""

    def sampled_pass(self) -> Pass:
        """Describe the pass to `amdm`."""

    def start(self) -> None:
        """The pass begins; what this hangs anywhere, `finish` takes away."""

    def titles(self) -> Mapping[int, str]:
        """The checkpoint that each slot ran, as the host's list names it."""

    def worded(self, error: Exception) -> Exception:
        """The error to raise for one that ended the sampling: itself, or an AmdmError where memory ran out."""

    def finish(self, pool_limit: int) -> Ran | None:
        """After the pass, however it ended; None where neither a co-model nor the main adapter was run."""


class Lists(Protocol):
    """The files that can be named, and what of them is in memory."""

    def checkpoint_titles(self) -> list[str]: ...

    def checkpoint_title(self, name: str) -> str | None:
        """The present title of the checkpoint that a name, hash or earlier title means."""

    def checkpoint_family(self, name: str) -> Family | None:
        """The family of the checkpoint that a name means, as far as its file tells it unloaded."""

    def main_checkpoint(self) -> str:
        """The name of the main checkpoint that the user has chosen for all pictures; "" where there is none."""

    def refresh_checkpoints(self) -> None: ...

    def adapter_titles(self) -> list[str]: ...

    def adapter_title(self, name: str) -> str | None:
        """The present title of the adapter file that a name or earlier title means."""

    def adapter_info(self, name: str) -> AdapterInfo | None:
        """The description of the adapter file of this name; None where there is none, or it cannot be used."""

    def refresh_adapters(self) -> None: ...

    def loaded(self) -> list[InMemory]: ...

    def unload(self) -> list[InMemory]:
        """Take everything out of memory, and return what that was."""


class Page(Lists, Protocol):
    """The panel's needs: the lists, and the host's own controls."""

    def input_accordion(self, value: bool, label: str, elem_id: str) -> AbstractContextManager: ...

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any: ...

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any: ...

    def option(self, name: str) -> Any:
        """The user's value of one of AMDM's options; AttributeError or KeyError where there is none."""


class Callbacks(Protocol):
    """The places for AMDM in the host: its plot, its settings page, its API, the moments of its start."""

    name: str

    def xyz_module(self) -> ModuleType | None: ...

    def add_option(
        self,
        name: str,
        default: Any,
        label: str,
        component: Any,
        component_args: dict[str, Any],
        section: tuple[str, str],
        info: str,
    ) -> None: ...

    def on(self, moment: str, callback: Callable) -> None:
        """Call in one of the WebUI's moments: before_ui, ui_settings, app_started, infotext_pasted."""

    def on_main_checkpoint(self, callback: Callable[[Any], None]) -> None:
        """Call with the page's control of the main checkpoint, each time that it is made."""

    def has_api(self) -> bool:
        """True where it was started with its API; where it was not, AMDM has no routes either."""

    def api_auth(self) -> list[Any]:
        """FastAPI dependencies that ask for the login of the host's API or, where it has none, of its page."""


class Runner(Protocol):
    """A way to run co-models in the host's pictures."""

    def run(
        self, p: Processing, continue_on_error: bool, hook: Mapping[str, Any], sampler: Callable[..., Any]
    ) -> HostRun:
        """A pass that is about to be sampled: `hook` are the hook's arguments, `sampler` the sampler function."""

    def is_hires_pass(self, p: Processing) -> bool: ...

    def is_inner(self, p: Processing) -> bool:
        """True where another extension generates this picture inside a picture."""

    def comment(self, p: Processing, text: str) -> None:
        """Show `text` with the finished picture."""


Pictures = list[tuple[Any, str]]
"""Pictures, as PIL has them, with their infotexts."""


class Drawing(Protocol):
    """Pictures drawn again beside those that were asked for."""

    def checkpoint_title(self, name: str) -> str | None: ...

    def is_inner(self, p: Processing) -> bool: ...

    def runs_a_script(self, p: Processing) -> bool:
        """True where a script chosen below the panels draws these pictures, such as a plot."""

    def kept(self, p: Processing) -> Processing:
        """A copy of a processing object from before its start."""

    def drawn_again(
        self, before: Processing, p: Processing, checkpoint: str, prompt: str, negative_prompt: str, cfg_scale: float
    ) -> Processing:
        """A processing object for the pictures of `p` with these; "" and 0 for those of `p`. before: see `kept`."""

    def draw(self, p: Processing) -> Pictures: ...

    def pictures_of(self, processed: Processed) -> Pictures:
        """A result's single pictures."""

    def grid(self, p: Processing, columns: Sequence[tuple[str, Sequence[Any]]], text: str) -> Any:
        """Pictures in columns with captions, and this infotext."""

    def expect_rounds(self, p: Processing, rounds: int) -> None:
        """Let the progress count so many rounds of the request's pictures."""

    def is_interrupted(self) -> bool: ...


class Host(Page, Callbacks, Runner, Drawing, Protocol):
    """A WebUI."""
