"""The settings of a picture in its infotext: written after a run, read back when a user pastes or sends it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from ..comodels.pictures import fingerprint
from ..hosts.protocol import Lists, Page
from ..settings import (
    MAIN_CHECKPOINT,
    MAX_SLOTS,
    NO_ADAPTER,
    NO_CHECKPOINT,
    PICTURES,
    AdapterSettings,
    Settings,
    Spec,
    flat,
    infotext_label,
    specs,
)

SWITCH = "AMDM"
"""The key that says whether AMDM took part in the picture."""

SKIPPED = "infotext_skip_pasting"
"""The WebUI's option that lists the keys a user does not want to be pasted."""

_QUOTED_BY_THE_HOST = re.compile(r"[,:\n]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def written(settings: Settings, titles: Mapping[int, str]) -> dict[str, str]:
    """The infotext entries of what ran; `titles` has the checkpoint that each slot ran.

    Only slots that took part are written, under their own numbers, and of them only what is not at its default, besides
    what makes the picture understandable (`Spec.terse` is False). The same holds for an adapter. Of its picture the
    entry has a fingerprint, because a picture file is too long for an infotext.
    """
    ran = dict(settings.active) if settings.mixes else {}
    names = {number: titles.get(number, slot.checkpoint) for number, slot in ran.items()}
    slots = (replace(slot, checkpoint=names.get(n, slot.checkpoint)) for n, slot in enumerate(settings.co_models, 1))
    named = replace(settings, co_models=tuple(slots))
    told = {}
    for number, spec in flat(len(settings.co_models)):
        adapted = named.co_models[number - 1].adapter_settings if number else named.main_adapter
        if (number and number not in ran) or (_of_adapter(spec) and not adapted.used):
            continue
        value = named.value(number, spec)
        if spec.name in PICTURES:
            value = fingerprint(value)
        if value != spec.default or not spec.terse:
            label = infotext_label(number, spec)
            told[label] = _safe(label, as_text(spec.shown(value)))
    return told


def without(entries: Mapping[str, Any]) -> dict[str, Any]:
    """`entries` without those of AMDM.

    For the start of a picture: the cells of a plot and the pictures of a folder share one collection of entries, and
    what was written for one of them must not be told of the next.
    """
    own = {infotext_label(slot, spec) for slot, spec in flat(MAX_SLOTS)}
    return {key: value for key, value in entries.items() if key not in own}


def expand(params: MutableMapping[str, Any], slots: int, host: Page) -> None:
    """Complete what was read from an infotext, in place, so that pasting it sets every control of a panel.

    What the infotext leaves out stands at its default, and checkpoints are given the titles they have now. An infotext
    without AMDM switches AMDM off and leaves its other controls alone: they do nothing then, and what the user had
    chosen is not lost. Keys that the user asked the WebUI not to paste stay away.
    """
    skipped = set(_option(host, SKIPPED) or ())
    _join_sizes(params)
    if not any(infotext_label(slot, spec) in params for slot, spec in flat(MAX_SLOTS)):
        if SWITCH not in skipped:
            params[SWITCH] = as_text(False)
        return
    _warn_of_lost_slots(params, slots)
    for slot, spec in flat(slots):
        label = infotext_label(slot, spec)
        if label not in skipped:
            params.setdefault(label, as_text(spec.shown(spec.default)))
            if spec.name == "checkpoint":
                params[label] = _present_title(params[label], host)
            if spec.name == "adapter" and params[label] not in ("", NO_ADAPTER):
                params[label] = host.adapter_title(params[label]) or params[label]


def pasted_image(label: str, params: Mapping[str, Any]) -> None:
    """What pasting gives a picture's control: nothing, so it keeps its picture; the page says which one was used."""
    told = params.get(label)
    if told:
        import gradio as gr

        words = f"{label}: an infotext cannot hold the picture itself; choose the one with the fingerprint {told}."
        logging.getLogger(__name__).warning(words)
        gr.Warning(words)


_ADAPTERS_OWN = frozenset(spec.name for spec in specs(AdapterSettings))


def _of_adapter(spec: Spec) -> bool:
    return spec.name in _ADAPTERS_OWN


def _present_title(name: str, host: Lists) -> str:
    """The title that a checkpoint named in an infotext has now; an unknown one stays, so that the run can name it."""
    if name in ("", NO_CHECKPOINT, MAIN_CHECKPOINT):
        return name
    return host.checkpoint_title(name) or name


def as_text(value: Any) -> str:
    """A setting as an infotext has it: 0.5, 3, True."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _safe(label: str, text: str) -> str:
    """`text` so that the WebUI's reader gives it back unchanged.

    The WebUI quotes a value with a comma, colon or line break, and that protects all of it. Any other value it writes
    as it is; its reader then drops quotes and blanks around it, and a value that equals its own key is not written.
    """
    if _QUOTED_BY_THE_HOST.search(text):
        return text
    fragile = text != text.strip() or text.startswith('"') or _CONTROL.search(text) or text in ("", label)
    return json.dumps(text, ensure_ascii=False) if fragile else text


def _join_sizes(params: MutableMapping[str, Any]) -> None:
    """Put a text like "512x512" together again, which the WebUI's reader takes for a picture's size."""
    for slot, spec in flat(MAX_SLOTS):
        label = infotext_label(slot, spec)
        parts = [params.get(f"{label}-{part}") for part in (1, 2)]
        if spec.type is str and label not in params and None not in parts:
            params[label] = "x".join(parts)


def _warn_of_lost_slots(params: Mapping[str, Any], slots: int) -> None:
    lost = [slot for slot in range(slots + 1, MAX_SLOTS + 1) if _has_slot(params, slot)]
    if lost:
        logging.getLogger(__name__).warning(
            "AMDM: this picture was made with co-model %s, but the panel has only %s; raise the number of slots in the "
            "settings and reload the page.",
            ", ".join(map(str, lost)),
            slots,
        )


def _has_slot(params: Mapping[str, Any], slot: int) -> bool:
    return any(number == slot and infotext_label(number, spec) in params for number, spec in flat(slot))


def _option(host: Page, name: str) -> Any:
    """The value of an option that not every WebUI has."""
    try:
        return host.option(name)
    except (AttributeError, KeyError):
        return None
