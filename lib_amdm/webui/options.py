"""AMDM's section on the WebUI's settings page, and the values of its options."""

from __future__ import annotations

from typing import Any

from ..hosts.protocol import Host, Page
from ..settings import MAX_SLOTS

SECTION = ("amdm", "AMDM")
SLOTS = "amdm_slots"
POOL_LIMIT = "amdm_pool_limit"
ON_ERROR = "amdm_on_error"
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


def continue_on_error(host: Page) -> bool:
    """Return True if the main model alone shall draw the picture when AMDM fails."""
    return bool(value(host, ON_ERROR) == GO_ON)


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
