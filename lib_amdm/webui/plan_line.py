"""A line under the panel that says, before a picture, what will be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ..errors import SHORT, one_sentence
from ..hosts.protocol import Lists
from ..settings import NO_CHECKPOINT, CoModel, Settings, SettingsError
from . import fitting


def of_controls(values: Sequence[Any], host: Lists, main: str | None = None) -> str:
    """Return the line for the controls' values, in the order of the API's plain list; a field that is just being
    changed may hold anything."""
    try:
        return say(Settings.from_list(values), host, main)
    except SettingsError:
        return ""


def say(settings: Settings, host: Lists, main: str | None = None) -> str:
    """Return the line as HTML; empty where AMDM is off. main: the main checkpoint, None for the one that `host` has."""
    if not settings.enabled:
        return ""
    main = host.main_checkpoint() if main is None else main
    idle = [
        f"Co-model {number} {reason}."
        for number, slot in enumerate(settings.co_models, 1)
        if (reason := _why_idle(number, slot))
    ]
    idle += [
        fitting.sentence(number, slot.checkpoint, main, families)
        for number, slot in settings.active
        if (families := fitting.misfit(host, main, slot.checkpoint))
    ]
    if not settings.active:
        idle.insert(0, "No co-model is run: choose a checkpoint." if not settings.main_adapter.used else "")
    elif settings.compare:
        count = len(settings.active) + 2
        idle.append(f"Compare: {count} pictures for each, and a grid.")
    return escape(one_sentence(" ".join(filter(None, idle)), 4 * SHORT))


def _why_idle(number: int, slot: CoModel) -> str:
    if slot.checkpoint in ("", NO_CHECKPOINT):
        # an empty slot is said of the first alone: the others are empty as a rule
        chosen_otherwise = slot.prompt or slot.adapter_settings.used
        return "has no checkpoint, so it is not run" if chosen_otherwise else ""
    if not slot.enabled:
        return "is switched off"
    return "" if slot.speaks else "has gamma 0, so it is not run"
