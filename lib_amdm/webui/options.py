"""AMDM's section on the WebUI's settings page, and the values of its options."""

from __future__ import annotations

from typing import Any

from ..hosts.protocol import Host, Page, PassOptions
from ..settings import MAX_SLOTS

SECTION = ("amdm", "AMDM")
SLOTS = "amdm_slots"
POOL_LIMIT = "amdm_pool_limit"
ON_ERROR = "amdm_on_error"
SMALL_AUTOENCODERS = "amdm_small_autoencoders"
STOP = "stop"
GO_ON = "go on without AMDM"
DEFAULT_SLOTS = 3
DEFAULT_POOL_LIMIT = 2
MAX_POOL_LIMIT = 10


def register(host: Host) -> None:
    """Add a section for AMDM to the WebUI's settings page."""
    host.on("ui_settings", lambda: _add(host))


def slots(host: Page) -> int:
    """Return the number of co-models that the panel has room for."""
    return _number(host, SLOTS, DEFAULT_SLOTS, 1, MAX_SLOTS)


def pool_limit(host: Page) -> int:
    """Return the number of co-model checkpoints kept in memory between pictures."""
    return _number(host, POOL_LIMIT, DEFAULT_POOL_LIMIT, 0, MAX_POOL_LIMIT)


def of_pass(host: Page) -> PassOptions:
    """Return the options that a pass needs."""
    return PassOptions(value(host, ON_ERROR) == GO_ON, value(host, SMALL_AUTOENCODERS) is True)


def _add(host: Host) -> None:
    import gradio as gr

    host.add_option(
        SLOTS,
        DEFAULT_SLOTS,
        "Number of co-models in the panel",
        gr.Slider,
        {"minimum": 1, "maximum": MAX_SLOTS, "step": 1},
        SECTION,
        'needs "Reload UI"',
    )
    host.add_option(
        POOL_LIMIT,
        DEFAULT_POOL_LIMIT,
        "Number of co-model checkpoints kept in memory between pictures",
        gr.Slider,
        {"minimum": 0, "maximum": MAX_POOL_LIMIT, "step": 1},
        SECTION,
        "0 = keep none: the files are read again for every picture",
    )
    host.add_option(
        ON_ERROR,
        STOP,
        "When a co-model cannot be used",
        gr.Radio,
        {"choices": [STOP, GO_ON]},
        SECTION,
        "stop = no picture, and the page says why; go on = the main model draws alone, and the comments say why",
    )
    host.add_option(
        SMALL_AUTOENCODERS,
        False,
        "Through pixels: small approximate autoencoders (TAESD)",
        gr.Checkbox,
        {},
        SECTION,
        "faster, and less exact; for SD1, SDXL and Flux, whose encoder and decoder are in models/VAE-taesd",
    )


def value(host: Page, name: str) -> Any:
    """Return an option's value; None if there is none, or before it is registered, early in a start."""
    try:
        return host.option(name)
    except (AttributeError, KeyError):
        return None


def _number(host: Page, name: str, default: int, minimum: int, maximum: int) -> int:
    chosen = value(host, name)
    if isinstance(chosen, bool) or not isinstance(chosen, (int, float)):
        return default
    return max(minimum, min(maximum, int(chosen)))
