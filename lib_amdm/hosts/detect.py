"""Detect the WebUI by the functions that it has, never by its version."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import Host

_SCRIPTS = "modules.scripts"
_HOOK = {_SCRIPTS: ("Script.process_before_every_sampling",)}
"""Without this hook the panel would show up and have no effect."""

CAN: dict[str, dict[str, tuple[str, ...]]] = {
    "neo": {
        "modules.sd_models": ("forge_model_reload",),
        "backend.args": ("dynamic_args.last_extra_generation_params",),
        "backend.loader": ("HF", "split_state_dict", "load_huggingface_component"),
        "backend.sampling.sampling_function": ("sampling_function",),
        **_HOOK,
    },
    "forge": {
        "modules.sd_models": ("forge_model_reload",),
        "backend.loader": ("dir_path", "split_state_dict", "load_huggingface_component"),
        "backend.sampling.sampling_function": ("sampling_function",),
        **_HOOK,
    },
    "reforge": {
        "modules_forge.forge_loader": ("load_model_for_a1111",),
        "ldm_patched.modules.samplers": ("sampling_function",),
        **_HOOK,
    },
    "a1111": {
        "modules.sd_models": ("load_model_weights", "get_checkpoint_state_dict"),
        "modules.sd_hijack": ("StableDiffusionModelHijack",),
        "modules.lowvram": ("is_enabled",),
        **_HOOK,
    },
}
"""The names that each host's files need in a WebUI; the first host with all of them is chosen.

The hook is the last: if only it is missing, the WebUI is too old.
"""


class UnknownHostError(Exception):
    """The reason that AMDM cannot be used in this WebUI, in one line for its page."""


def host() -> Host:
    """Return the host for the present WebUI; UnknownHostError if there is none."""
    for name, needs in CAN.items():
        lacking = next((module for module, names in needs.items() if not _offers(module, names)), None)
        if lacking == _SCRIPTS:
            raise UnknownHostError(
                "AMDM cannot be used here: this WebUI is too old for it, and never calls it while a picture is drawn; "
                "update it (AUTOMATIC1111 to 1.10 or newer)."
            )
        if lacking is None:
            try:
                supported: Host = importlib.import_module(f"{__package__}.{name}").HOST
                return supported
            except ImportError as error:
                raise UnknownHostError(lacks(name, error)) from error
    raise UnknownHostError(
        "AMDM cannot be used here: this WebUI is none that it knows, or older than those; the README names them."
    )


def lacks(name: str, error: ImportError) -> str:
    """Say that a WebUI lacks something that this host's files import."""
    what = str(error).partition(" (")[0]  # a path follows
    return (
        f"AMDM cannot be used here: this WebUI is like {name}, but lacks something ({what}); the README says what AMDM "
        "was tried with."
    )


def _offers(module: str, names: tuple[str, ...]) -> bool:
    try:
        # a folder of that name may belong to something else, so it is imported only if it has the right parts
        if find_spec(module) is None:
            return False
        imported = importlib.import_module(module)
    except ImportError:
        return False
    return all(_has(imported, name) for name in names)


def _has(module: Any, name: str) -> bool:
    """Return True if a module has a name, which may be dotted: `Class.method`."""
    try:
        attrgetter(name)(module)
    except AttributeError:
        return False
    return True
