"""The protocols of a WebUI for AMDM, implemented by the hosts in this folder."""

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
    """The part of a pass that ran alongside the main model.

    steps: how many of `pass_steps` were mixed. evaluations: of each co-model (title, number). seconds: what the
    co-models took of `pass_seconds`; None if the device cannot say. vae_calls: how often pictures were decoded or
    encoded for co-models, in `vae_seconds` of those seconds.
    """

    steps: int
    pass_steps: int
    evaluations: Sequence[tuple[str, int]]
    seconds: float | None
    pass_seconds: float | None
    vae_calls: int = 0
    vae_seconds: float | None = None


class HostRun(Protocol):
    """One pass of one batch on a host, for running co-models with the main model.

    stopped: True once the main model goes on alone early; the picture's comments say why.
    """

    stopped: bool

    def load_co_models(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        """Load the co-models of the slots (number, settings) and encode their texts; AmdmError names a problem."""

    def adapt_main(self, settings: AdapterSettings) -> None:
        """Prepare the adapter that acts on the main model from `start` to `finish`; AmdmError names a problem."""

    def sampled_pass(self) -> Pass:
        """Describe the pass to `amdm`."""

    def start(self) -> None:
        """Begin the pass; `finish` removes everything that this attaches."""

    def titles(self) -> Mapping[int, str]:
        """Return the checkpoint that each slot ran, by its name in the host's list."""

    def worded(self, error: Exception) -> Exception:
        """Return the error to raise for one that ended the sampling: itself, or an AmdmError if memory ran out."""

    def finish(self, pool_limit: int) -> Ran | None:
        """End the pass, also after an error; None if neither a co-model nor the main adapter was run."""


class Lists(Protocol):
    """The files that can be named, and those in memory."""

    @property
    def runs_flow_models(self) -> bool:
        """True if flow models can be run here."""

    def checkpoint_titles(self) -> list[str]: ...

    def checkpoint_title(self, name: str) -> str | None:
        """Return the present title of the checkpoint that a name, hash or earlier title means."""

    def checkpoint_family(self, name: str) -> Family | None:
        """Return the family of the checkpoint that a name means, if its file shows it without being loaded."""

    def main_checkpoint(self) -> str:
        """Return the name of the main checkpoint that the user has chosen for all pictures, or ""."""

    def refresh_checkpoints(self) -> None: ...

    def adapter_titles(self) -> list[str]: ...

    def adapter_title(self, name: str) -> str | None:
        """Return the present title of the adapter file that a name or earlier title means."""

    def adapter_info(self, name: str) -> AdapterInfo | None:
        """Return the description of the adapter file of this name; None if there is none, or it cannot be used."""

    def refresh_adapters(self) -> None: ...

    def loaded(self) -> list[InMemory]: ...

    def unload(self) -> list[InMemory]:
        """Unload everything, and return what that was."""


class Page(Lists, Protocol):
    """The panel's needs: the lists, and the host's own controls."""

    def input_accordion(self, value: bool, label: str, elem_id: str) -> AbstractContextManager: ...

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any: ...

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any: ...

    @property
    def token_count(self) -> Callable[[str, Sequence[str], bool], str] | None:
        """Return what the page's counter shows for a text, with styles, as a negative prompt or not, if it has one."""

    def option(self, name: str) -> Any:
        """Return the user's value of one of AMDM's options; AttributeError or KeyError if there is none."""


class Callbacks(Protocol):
    """AMDM's places in the host: its plot, settings page, API, and the events of its start."""

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
        """Return True if the host was started with its API; otherwise AMDM has no routes either."""

    def api_auth(self) -> list[Any]:
        """Return FastAPI dependencies that require the login of the host's API or, if it has none, of its page."""


class PassOptions(NamedTuple):
    """The options of the settings page that a pass needs."""

    continues_on_error: bool = False
    """True if the main model draws alone when AMDM fails."""
    small_autoencoders: bool = False
    """True if the host's small approximate autoencoders make the pictures between models, if it has their files."""


class Runner(Protocol):
    """A way to run co-models in the host's pictures."""

    def run(self, p: Processing, options: PassOptions, hook: Mapping[str, Any], sampler: Callable[..., Any]) -> HostRun:
        """Return a pass that is about to be sampled: `hook` has the hook's arguments, `sampler` is its function."""

    def is_hires_pass(self, p: Processing) -> bool: ...

    def is_inner(self, p: Processing) -> bool:
        """Return True if another extension generates this picture inside a picture."""

    def join_details(self, p: Processing, script: str) -> None:
        """Let the script of this file take part in what a detailer draws inside this picture, if there is one."""

    def comments(self, p: Processing) -> Mapping[str, Any]:
        """Return the texts that are shown with a picture, as keys; later ones appear in it too."""

    def comment(self, p: Processing, text: str) -> None:
        """Show `text` with the finished picture."""


Pictures = list[tuple[Any, str]]
"""Pictures, as PIL has them, with their infotexts."""


class ModelAlone(NamedTuple):
    """A model that draws a picture alone; "" and 0 mean the picture's own values."""

    checkpoint: str = ""
    prompt: str = ""
    negative_prompt: str = ""
    cfg_scale: float = 0.0
    modules: Sequence[str] = ()
    """The names of the files of its VAE and text encoders, if the host has such files; none means the picture's."""


class Drawing(Protocol):
    """Further pictures, drawn in addition to the requested ones."""

    def checkpoint_title(self, name: str) -> str | None: ...

    def is_inner(self, p: Processing) -> bool: ...

    def runs_a_script(self, p: Processing) -> bool:
        """Return True if a script chosen below the panels draws these pictures, such as a plot."""

    def snapshot(self, p: Processing) -> Processing:
        """Return a copy of a processing object from before its start."""

    def redraw_job(self, before: Processing, p: Processing, model: ModelAlone) -> Processing:
        """Return a processing object for the pictures of `p` with a model alone. before: see `snapshot`."""

    def draw(self, p: Processing) -> Pictures: ...

    def pictures_of(self, processed: Processed) -> Pictures:
        """Return a result's single pictures."""

    def grid(self, p: Processing, columns: Sequence[tuple[str, Sequence[Any]]], text: str) -> Any:
        """Return a grid of pictures in columns with captions, and this infotext."""

    def expect_rounds(self, p: Processing, rounds: int) -> None:
        """Make the progress bar count this number of rounds of the request's pictures."""

    def is_interrupted(self) -> bool: ...


class Host(Page, Callbacks, Runner, Drawing, Protocol):
    """A WebUI."""
