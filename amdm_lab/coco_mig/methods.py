"""The ways to draw an entry: the adapters alone, together as the paper has them, by defaults, by a file of settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT, NO_ADAPTER, Settings, SettingsError

from ..records import NAMED_BY, fits_a_file
from .benchmark import Entry, read_json

INTERACT, MIGC = "interact", "migc"
PATTERNS = {INTERACT: "interact", MIGC: "migc"}
"""A part of the name of a user's own file for each adapter."""
_TITLES = {INTERACT: "InteractDiffusion", MIGC: "MIGC"}
MIGC_SHARE = 0.5
"""MIGC works in 25 of 50 steps in its own benchmark script."""


@dataclass(frozen=True)
class Method:
    """A row of the table. settings: AMDM's, with the API's names, in which `of` fills an entry's layout."""

    name: str
    label: str
    settings: Mapping[str, Any]

    def of(self, entry: Entry) -> dict[str, Any]:
        """Return the settings for an entry: its layout goes wherever an adapter is named and no layout is."""
        settings = copy.deepcopy(dict(self.settings))
        layout = entry.layout().rows()
        for place in (settings.get("main_adapter"), *(settings.get("co_models") or ())):
            if place and place.get("adapter", NO_ADAPTER) not in ("", NO_ADAPTER):
                place["layout"] = place.get("layout") or layout
        return settings


def _interact(adapters: Mapping[str, str]) -> dict[str, Any]:
    return {"adapter": adapters[INTERACT]}


def _alone(adapter: dict[str, Any]) -> dict[str, Any]:
    return {"enabled": True, "main_adapter": adapter, "co_models": []}


def _interact_alone(adapters: Mapping[str, str]) -> dict[str, Any]:
    return _alone(_interact(adapters))


def _migc_alone(adapters: Mapping[str, str]) -> dict[str, Any]:
    return _alone({"adapter": adapters[MIGC], "until": MIGC_SHARE})


def _together(adapters: Mapping[str, str], slot: Mapping[str, Any], **main: Any) -> dict[str, Any]:
    co_model = {"checkpoint": MAIN_CHECKPOINT, "adapter": adapters[MIGC], "until": MIGC_SHARE, **slot}
    return {"enabled": True, **main, "main_adapter": _interact(adapters), "co_models": [co_model]}


def _paper(adapters: Mapping[str, str]) -> dict[str, Any]:
    slot = {"gamma": 0.5, "eta": 55, "noise": "independent"}
    return _together(adapters, slot, steps=3, evaluations=0, eta=45, correction="paper")


def _released(adapters: Mapping[str, str]) -> dict[str, Any]:
    """Mixed in steps 2 to 4, MIGC in 20 of 50 steps.

    The code's weights 0.5 and sqrt(1 - 0.5^2) are slerp's for latents at a right angle, as independent noise is, with
    gamma 2/3.
    """
    slot = {"gamma": 2 / 3, "eta": 55, "noise": "independent", "until": 0.4}
    return _together(adapters, slot, steps=4, start=1, evaluations=0, eta=45, correction="paper")


def _defaults(adapters: Mapping[str, str]) -> dict[str, Any]:
    return _together(adapters, {})


BUILT_IN = {
    "interact": ("InteractDiffusion", _interact_alone, (INTERACT,)),
    "migc": ("MIGC", _migc_alone, (MIGC,)),
    "paper": ("InteractDiffusion(+MIGC), the paper's settings", _paper, (INTERACT, MIGC)),
    "released": ("InteractDiffusion(+MIGC), the released code's settings", _released, (INTERACT, MIGC)),
    "defaults": ("InteractDiffusion(+MIGC), this project's defaults", _defaults, (INTERACT, MIGC)),
}
"""The methods by their names on the command line: label, settings, and the adapters that they need."""


def built_in(name: str, listed: Sequence[str], given: Mapping[str, str]) -> Method:
    """Make a method with the adapters of the list that are `given`, or else that have the right names."""
    if name not in BUILT_IN:
        raise AmdmError(f'"{name}" is not a method; choose among {", ".join(BUILT_IN)}, or give --settings.')
    label, settings, needed = BUILT_IN[name]
    return Method(name, label, settings({which: _found(which, listed, given.get(which, "")) for which in needed}))


def from_file(file: Path) -> Method:
    """Make a method of a file of settings, in the API's form."""
    given = read_json(file, "a file of AMDM's settings as the API takes them")
    try:
        settings = Settings.from_dict(given)
    except SettingsError as error:
        raise AmdmError(f'"{file.name}": {error}') from error
    if not settings.runs:
        raise AmdmError(f'"{file.name}" runs nothing; set "enabled", and name a co-model or an adapter.')
    if not fits_a_file(file.stem):
        raise AmdmError(f'"{file.name}" must be named by {NAMED_BY}, for a folder has its name; call it otherwise.')
    if file.stem in BUILT_IN:
        raise AmdmError(f'"{file.name}" has the name of a built-in method; call it otherwise.')
    return Method(file.stem, file.stem, given)


def _found(which: str, listed: Sequence[str], given: str) -> str:
    if given in listed:
        return given
    alike = [title for title in listed if PATTERNS[which] in title.lower()]
    if given or not alike:
        asked = f'"{given}"' if given else f'with "{PATTERNS[which]}" in its name'
        titles = ", ".join(listed) or "empty"
        raise AmdmError(
            f"{_TITLES[which]}: no adapter {asked} is in the list ({titles}); put it there and refresh the list, or "
            f"name it with --{which}."
        )
    return alike[0]
