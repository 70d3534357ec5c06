"""The settings in a picture's infotext: written after a run, read back when a user pastes or sends it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from ..comodels.file_list import without_folder, without_hash
from ..files.pictures import fingerprint
from ..hosts.protocol import Page, Ran
from ..settings import MAX_SLOTS, NO_ADAPTER, CoModel, ListedSpec, Part, PictureSpec, Settings, flat, infotext_label
from . import listed, options

SWITCH = "AMDM"
"""The key that shows that AMDM took part in the picture."""

RAN = "AMDM ran"
"""The key of a line that says what ran, and how long; it is not a setting."""

SKIPPED = "infotext_skip_pasting"
"""The WebUI's option that lists the keys a user does not want to be pasted."""

DETAIL = "detail "
"""The beginning of a detail's name among a picture's passes; its number follows."""

PASSES = "AMDM passes"
"""The key of the same as data, in an API's answer alone."""

_QUOTED_BY_THE_HOST = re.compile(r"[,:\n]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def written(settings: Settings, titles: Mapping[int, str]) -> dict[str, str]:
    """Return the infotext entries of a picture; `titles` has the checkpoint that each slot ran.

    Every slot with a changed setting is written under its own number, even if it took no part: the settings that are
    not at their default, and those that a picture needs to be understood (`Spec.terse` is False). The same holds for
    an adapter. A picture's entry is its fingerprint, because a picture file is too long for an infotext.
    """
    slots = (replace(slot, checkpoint=titles.get(n, slot.checkpoint)) for n, slot in enumerate(settings.co_models, 1))
    named = replace(settings, co_models=tuple(slots))
    entries = {}
    for number, spec in flat(len(settings.co_models)):
        adapter = named.co_models[number - 1].adapter_settings if number else named.main_adapter
        beside = not spec.shapes_picture or (number and settings.co_models[number - 1] == CoModel())
        if beside or (spec.part is Part.ADAPTER and adapter.adapter in ("", NO_ADAPTER)):
            continue
        value = named.value(number, spec)
        if isinstance(spec, PictureSpec):
            value = fingerprint(value)
        if value != spec.default or not spec.terse:
            label = infotext_label(number, spec)
            entries[label] = _safe(label, as_text(spec.shown(value)))
    return entries


class Passes(dict[str, Any]):
    """The runs of a picture's passes, by their names ("first", "hires", "detail 1"), among the entries of an infotext.

    A WebUI's API gives it as data; to the text, for which a WebUI calls such a value, it adds nothing.
    """

    def __call__(self, **_: Any) -> None:
        return


def with_run(entries: Mapping[str, Any], name: str, ran: Ran) -> dict[str, Any]:
    """Return the entries of what ran, in words and as data: those of an earlier pass in `entries`, and this one's.

    name: the pass's, "first", "hires" or "detail 1".
    """
    line, before = ran_line(ran), entries.get(RAN)
    label = "hires fix" if name == "hires" else name
    if before:
        line = f"{before}; {label}: {line}"
    elif name.startswith(DETAIL):
        line = f"{label}: {line}"
    evaluations = [{"checkpoint": title, "evaluations": count} for title, count in ran.evaluations]
    passes = Passes({**entries.get(PASSES, {}), name: {**ran._asdict(), "evaluations": evaluations}})
    return {RAN: line, PASSES: passes}


def with_details(entries: Mapping[str, Any], details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a picture with those of its details."""
    joined = {**entries, **details}
    if RAN in entries and RAN in details:
        joined[RAN] = f"{entries[RAN]}; {details[RAN]}"
        joined[PASSES] = Passes({**entries[PASSES], **details[PASSES]})
    return joined


def ran_line(ran: Ran) -> str:
    """Say what a pass ran: "2 models, 6 of 20 steps, 3 evaluations of beta, +0.9 s of 7.1 s".

    Without seconds if the device cannot measure them.
    """
    counts = " and ".join(f"{counted(count, 'evaluation')} of {short_title(title)}" for title, count in ran.evaluations)
    models = len(ran.evaluations) + 1
    line = f"{models} models, {ran.steps} of {counted(ran.pass_steps, 'step')}, {counts}"
    if ran.seconds is not None and ran.pass_seconds is not None:
        line += f", +{ran.seconds:.1f} s of {ran.pass_seconds:.1f} s"
    if not ran.vae_calls:
        return line
    calls = counted(ran.vae_calls, "VAE call")
    return f"{line}, {calls}" if ran.vae_seconds is None else f"{line}, {ran.vae_seconds:.1f} s of them in {calls}"


def counted(count: int, name: str) -> str:
    """Write "1 step" or "2 steps"."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def short_title(title: str) -> str:
    """Return a checkpoint's title without its folder, suffix and hash."""
    return re.sub(r"\.\w+$", "", without_folder(without_hash(title)))


def without(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return `entries` without those of AMDM, for the start of a picture.

    The cells of a plot and the pictures of a folder share one collection of entries, and what was written for one of
    them must not appear in the next.
    """
    labels = _labels()
    return {key: value for key, value in entries.items() if key not in labels}


def amdm_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of AMDM among `entries`."""
    labels = _labels()
    return {key: value for key, value in entries.items() if key in labels}


def _labels() -> set[str]:
    return {RAN, PASSES, *(infotext_label(slot, spec) for slot, spec in flat(MAX_SLOTS))}


def expand(params: MutableMapping[str, Any], slots: int, host: Page) -> None:
    """Complete what was read from an infotext, in place, so that pasting it sets every control of a panel.

    A setting that the infotext leaves out gets its default, and files get their present titles. An infotext
    without AMDM switches AMDM off and leaves its other controls alone: they do nothing then, and the user's choices
    are not lost. Keys that the user excluded in the WebUI are not added.
    """
    skipped = set(options.value(host, SKIPPED) or ())
    _join_sizes(params)
    if not any(infotext_label(slot, spec) in params for slot, spec in flat(MAX_SLOTS)):
        if SWITCH not in skipped:
            params[SWITCH] = as_text(False)
        return
    _warn_of_lost_slots(params, slots)
    for slot, spec in flat(slots):
        label = infotext_label(slot, spec)
        if label not in skipped and spec.shapes_picture:
            params.setdefault(label, as_text(spec.shown(spec.default)))
            if isinstance(spec, ListedSpec) and params[label] not in ("", *spec.words):
                # an unknown name stays, so that the run can name it
                params[label] = listed.title(host, spec, params[label]) or params[label]


def pasted_image(label: str, params: Mapping[str, Any]) -> None:
    """Leave a picture's control alone when an infotext is pasted, and name the picture that was used."""
    mark = params.get(label)
    if mark:
        import gradio as gr

        warning = f"{label}: an infotext cannot hold the picture itself; choose the one with the fingerprint {mark}."
        logging.getLogger(__name__).warning(warning)
        gr.Warning(warning)


class SwitchKey(str):
    """The key of a switch, with a bool as its value: to a WebUI's API the text "False" counts as true."""

    __slots__ = ()

    def __call__(self, params: Mapping[str, Any]) -> bool | None:
        """Return the switch's value in an infotext's entries, or None."""
        return params[self] == as_text(True) if self in params else None


def as_text(value: Any) -> str:
    """Write a setting as an infotext has it: 0.5, 3, True."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _safe(label: str, text: str) -> str:
    """Return `text` in a form that the WebUI reads back unchanged.

    The WebUI quotes a value with a comma, colon or line break, and that protects all of it. It writes any other value
    as it is, and drops quotes and blanks around it on reading; a value that equals its own key is not written.
    """
    if _QUOTED_BY_THE_HOST.search(text):
        return text
    fragile = text != text.strip() or text.startswith('"') or _CONTROL.search(text) or text in ("", label)
    return json.dumps(text, ensure_ascii=False) if fragile else text


def _join_sizes(params: MutableMapping[str, Any]) -> None:
    """Rejoin a text like "512x512", which the WebUI reads as a picture's size."""
    for slot, spec in flat(MAX_SLOTS):
        label = infotext_label(slot, spec)
        parts = [params[key] for key in (f"{label}-1", f"{label}-2") if key in params]
        if spec.type is str and label not in params and len(parts) == 2 and None not in parts:
            params[label] = "x".join(parts)


def _warn_of_lost_slots(params: Mapping[str, Any], slots: int) -> None:
    lost = [slot for slot in range(slots + 1, MAX_SLOTS + 1) if _has_slot(params, slot)]
    if lost:
        logging.getLogger(__name__).warning(
            "AMDM: this picture was made with co-model %s, but the panel has only %s; raise the number of co-models in "
            "the settings and reload the page.",
            ", ".join(map(str, lost)),
            slots,
        )


def _has_slot(params: Mapping[str, Any], slot: int) -> bool:
    return any(number == slot and infotext_label(number, spec) in params for number, spec in flat(slot))
