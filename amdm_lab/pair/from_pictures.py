"""A pair and its subjects from the infotexts of pictures that a WebUI drew with AMDM, also by "compare"."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_amdm.comodels.file_list import readable
from lib_amdm.errors import AmdmError, cause, clipped
from lib_amdm.settings import (
    MAIN_CHECKPOINT,
    MAX_SLOTS,
    AdapterSettings,
    PictureSpec,
    Settings,
    Spec,
    flat,
    infotext_label,
    specs,
)

from ..checkpoints import find_file
from ..drawers.webui_api import PNG_INFO, WebUIDrawer
from ..infotexts import values_of
from ..records import number
from .subjects import Subject
from .ways import Pair

_NUMBERS = {
    "Steps": ("steps", int),
    "CFG scale": ("cfg_scale", float),
    "Size-1": ("width", int),
    "Size-2": ("height", int),
}
_WORDS = {"Sampler": "sampler", "Schedule type": "schedule", "Negative prompt": "negative_prompt"}
_OTHERWISE = ("Denoising strength", "Refiner")
"""Keys of an infotext that a prompt and a seed alone cannot reproduce."""


def read_pictures(drawer: WebUIDrawer, files: Sequence[Path]) -> tuple[Pair, list[Subject]]:
    """Return the pair that drew these pictures, and a subject for each.

    AmdmError if one was not drawn with AMDM and one co-model, or with other models or settings than the first.
    """
    titles = drawer.checkpoints()
    read = [_read(file.name, _parameters(drawer, file), titles) for file in files]
    pair, _ = read[0]
    for file, (other, _) in zip(files, read):
        if other != pair:
            raise AmdmError(
                f'"{file.name}" was drawn with other models or settings than "{files[0].name}"; name pictures that '
                "differ in prompts and seeds alone."
            )
    return pair, [subject for _, subject in read]


def _parameters(drawer: WebUIDrawer, file: Path) -> Mapping[str, Any]:
    """Return what the WebUI itself reads in a picture's infotext."""
    try:
        data = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise AmdmError(
            f'"{file.name}" cannot be read ({cause(error)}); name a picture that the WebUI drew.'
        ) from error
    answer = drawer.request(PNG_INFO, {"image": f"data:image/png;base64,{data}"})
    try:
        parameters = {
            key: readable(value) if isinstance(value, str) else value
            for key, value in dict(answer.get("parameters") or {}).items()
        }
        # Forge and Forge Neo leave out the checkpoint that is loaded just then
        parameters["Model"] = parameters.get("Model") or values_of(readable(answer.get("info") or "")).get("Model", "")
        return parameters
    except (AttributeError, TypeError, ValueError) as error:
        raise AmdmError(
            f'"{file.name}" has no infotext that the WebUI can read ({cause(error)}); name a picture that it drew.'
        ) from error


def _read(name: str, infotext: Mapping[str, Any], titles: Sequence[str]) -> tuple[Pair, Subject]:
    settings = _settings(name, infotext)
    odd = next((key for key in _OTHERWISE if infotext.get(key)), None)
    if odd:
        raise AmdmError(
            f'"{name}" was not drawn from a prompt alone ("{clipped(odd)}" is in its infotext); name one that was.'
        )
    main = find_file(str(infotext.get("Model", "")), titles)
    slot = settings.co_models[0]
    is_main = slot.checkpoint == MAIN_CHECKPOINT
    co = MAIN_CHECKPOINT if is_main else find_file(slot.checkpoint, titles)
    if main is None or co is None:
        missing = infotext.get("Model") or "?" if main is None else slot.checkpoint
        raise AmdmError(
            f'"{name}" was drawn with "{clipped(str(missing))}", which the WebUI does not list; put it back.'
        )
    try:
        common = {
            field: kind(number(kind(infotext[key]))) for key, (field, kind) in _NUMBERS.items() if key in infotext
        }
        seed = int(infotext["Seed"])
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise AmdmError(
            f'"{name}" has an infotext that cannot be read ({cause(error)}); name another picture.'
        ) from error
    common |= {field: str(infotext[key]) for key, field in _WORDS.items() if infotext.get(key)}
    subject = Subject(str(infotext.get("Prompt", "")), seed, slot.prompt)
    slot = replace(slot, checkpoint=co, prompt="")
    return Pair(main, co, replace(settings, co_models=(slot,)), common), subject


def _settings(name: str, infotext: Mapping[str, Any]) -> Settings:
    """Return AMDM's settings of an infotext, with its one co-model as the first slot."""
    values: dict[str, Any] = {"main_adapter": {}}
    slots: dict[int, dict[str, Any]] = {}
    for slot, spec in flat(MAX_SLOTS):
        text = infotext.get(infotext_label(slot, spec), "")
        if text in ("", None):
            continue
        if isinstance(spec, PictureSpec):
            raise AmdmError(
                f'"{name}" was drawn with a picture ({infotext_label(slot, spec)}), which an infotext does not hold; '
                "name one that was drawn without."
            )
        of_main = values["main_adapter"] if spec in specs(AdapterSettings) else values
        holder = slots.setdefault(slot, {}) if slot else of_main
        holder[spec.name] = _value(spec, str(text))
    settings = Settings.from_dict({**values, "compare": False, "co_models": list(slots.values())})
    active = [slot for _, slot in settings.active]
    if not settings.mixes or len(active) != 1:
        raise AmdmError(f'"{name}" was drawn with {len(active)} co-models of AMDM; name one that was drawn with one.')
    return replace(settings, co_models=tuple(active))


def _value(spec: Spec, text: str) -> Any:
    """Return a setting as the API has it."""
    if spec.type is bool:
        return text == "True"
    try:
        return text if spec.type is str else float(text)
    except ValueError:
        return text
