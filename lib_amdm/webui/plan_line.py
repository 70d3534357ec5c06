"""A line under the panel that says, before a picture, what will be drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from ..errors import one_sentence
from ..hosts.protocol import Lists
from ..settings import (
    MAIN_CHECKPOINT,
    NO_ADAPTER,
    THROUGH_PIXELS,
    AdapterSettings,
    AdapterSpec,
    CheckpointSpec,
    CoModel,
    ListedSpec,
    Settings,
    SettingsError,
    only,
    specs,
)
from . import fitting, listed

_OF_FEW_STEPS = re.compile("turbo|lightning|hyper|lcm|dmd|tcd|flash|schnell", re.IGNORECASE)
"""Words in the names of checkpoints that draw in a few steps without guidance."""
_CHECKPOINT, _ADAPTER = (only(kind, specs(CoModel)) for kind in (CheckpointSpec, AdapterSpec))


def of_controls(values: Sequence[Any], host: Lists, main: str | None = None) -> str:
    """Return the line for the controls' values, in the order of the API's plain list.

    A field that is being edited may have any value.
    """
    try:
        return say(Settings.from_list(values), host, main)
    except SettingsError:
        return ""


def say(settings: Settings, host: Lists, main: str | None = None) -> str:
    """Return the line as HTML; empty if AMDM is off. main: the main checkpoint, None for the host's own."""
    if not settings.enabled:
        return ""
    main = host.main_checkpoint() if main is None else main
    said = idle(settings)
    said += [
        f"Co-model {number} is switched off."
        for number, slot in enumerate(settings.co_models, 1)
        if not slot.enabled and slot.has_checkpoint
    ]
    said += [
        fitting.sentence(number, slot.checkpoint, main, families)
        for number, slot in settings.active
        if (families := fitting.misfit(host, main, slot.checkpoint))
    ]
    crossing = {
        number: families
        for number, slot in settings.active
        if (families := fitting.through_pixels(host, main, slot.checkpoint)) or slot.noise == THROUGH_PIXELS
    }
    if settings.mixes:
        said += [fitting.pixels_sentence(number, families, settings) for number, families in crossing.items()]
    said += [
        f"Co-model {number} has no latent to pull back, so its eta is not used."
        for number, slot in settings.active
        if slot.eta and (slot.sees_estimate or number in crossing)
    ]
    said += _lost(settings, host)
    if settings.active and settings.compare:
        count = len(settings.active) + 2
        said.append(f"Compare: {count} pictures for each, and a grid.")
    return escape(one_sentence(" ".join(said)))


def _lost(settings: Settings, host: Lists) -> list[str]:
    """Return a sentence for each file that is to run and is not in its list, such as one of an old picture."""
    wanted: list[tuple[str, ListedSpec, str]] = []
    if settings.main_adapter.used:
        wanted.append(("Main adapter", _ADAPTER, settings.main_adapter.adapter))
    for number, slot in settings.active:
        wanted.append((f"Co-model {number}", _CHECKPOINT, slot.checkpoint))
        if slot.adapter_settings.used:
            wanted.append((f"Adapter of co-model {number}", _ADAPTER, slot.adapter))
    return [
        f'{whose}: "{name}" is not in the list.'
        for whose, spec, name in wanted
        if name not in spec.words and listed.title(host, spec, name) is None
    ]


def idle(settings: Settings) -> list[str]:
    """Return a sentence for each setting that should run something and does not, with the remedy."""
    if not settings.enabled:
        return []
    remedy = _remedy(settings)
    said = [f"No co-model is run: {remedy}."] if remedy else []
    if _does_nothing(settings.main_adapter):
        said.append(f"The main adapter has {_zero(settings.main_adapter)}, so it does nothing.")
    for number, slot in enumerate(settings.co_models, 1):
        adapter = slot.adapter_settings
        if not slot.has_checkpoint:
            # only the first empty slot is named: the others are usually empty
            if slot.prompt or adapter.used:
                said.append(f"Co-model {number} has no checkpoint, so it is not run.")
        elif slot.enabled and not slot.has_share:
            said.append(f"Co-model {number} has gamma 0, so it is not run.")
        elif slot.enabled and _does_nothing(adapter):
            said.append(f"The adapter of co-model {number} has {_zero(adapter)}, so it does nothing.")
    return said


def unguided(settings: Settings, cfg_scale: float, host: Lists) -> list[str]:
    """Return a sentence for each co-model without guidance that probably needs some. cfg_scale: the main model's."""
    if cfg_scale != 1:
        return []
    return [
        f"Co-model {number} has no guidance, as the main model; give it a CFG scale in its settings, such as 5."
        for number, slot in settings.active
        if not slot.cfg_scale and _needs_guidance(slot.checkpoint, host)
    ]


def _needs_guidance(checkpoint: str, host: Lists) -> bool:
    """Return True for a checkpoint of Stable Diffusion whose name does not say that it draws without guidance."""
    family = host.checkpoint_family(checkpoint) if checkpoint != MAIN_CHECKPOINT else None
    return family is not None and not family.is_flow and not _OF_FEW_STEPS.search(checkpoint)


def _remedy(settings: Settings) -> str:
    """Say how to make the co-models run; "" if one runs, or none is wanted, as with a main adapter."""
    chosen = [slot for slot in settings.co_models if slot.has_checkpoint]
    used = [slot for slot in chosen if slot.enabled]
    if settings.mixes or (settings.main_adapter.used and not used):
        return ""
    if not used:
        return "switch one on" if chosen else "choose a checkpoint"
    if not settings.active:
        return "raise gamma"
    if settings.steps == 0:
        return "raise steps"
    return f"lower start ({settings.start}) below steps ({settings.steps}), or raise steps"


def _does_nothing(adapter: AdapterSettings) -> bool:
    return adapter.adapter not in ("", NO_ADAPTER) and not adapter.used


def _zero(adapter: AdapterSettings) -> str:
    return "until 0" if adapter.strength else "strength 0"
