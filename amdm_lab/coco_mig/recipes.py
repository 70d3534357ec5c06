"""The ways to draw an entry: either adapter alone, both by the paper, by the defaults, or by a file of settings."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT, NO_ADAPTER, Settings, SettingsError

from ..drawing import Order
from ..records import NAMED_BY, fits_a_file, read_json
from ..runs import Wanted
from .benchmark import Entry

INTERACT, MIGC = "interact", "migc"
"""The adapters, each by a part of the usual names of its file."""
_TITLES = {INTERACT: "InteractDiffusion", MIGC: "MIGC"}
MIGC_SHARE = 0.5
"""MIGC works in 25 of 50 steps in its own benchmark script."""


@dataclass(frozen=True)
class Recipe:
    """A row of the table. settings: AMDM's, with the API's names; `of` fills in an entry's layout."""

    name: str
    label: str
    settings: Mapping[str, Any]

    def of(self, entry: Entry) -> dict[str, Any]:
        """Return the settings for an entry: its layout goes to every adapter that has none."""
        settings = copy.deepcopy(dict(self.settings))
        layout = entry.layout().rows()
        for place in (settings.get("main_adapter"), *(settings.get("co_models") or ())):
            if place and place.get("adapter", NO_ADAPTER) not in ("", NO_ADAPTER):
                place["layout"] = place.get("layout") or layout
        return settings


def wanted(entries: Sequence[Entry], recipes: Sequence[Recipe], base: Order) -> list[Wanted]:
    """Return the pictures of all entries by all recipes.

    base: what all orders have in common; an entry's seed is its seed plus the entry's number.
    """
    return [
        Wanted(
            picture_name(recipe, entry),
            replace(base, prompt=entry.caption, seed=base.seed + entry.number, settings=recipe.of(entry)),
            recipe.name,
        )
        for entry in entries
        for recipe in recipes
    ]


def picture_name(recipe: Recipe, entry: Entry) -> str:
    """Return the name of a picture in the store."""
    return f"{recipe.name}/{entry.key}"


def _alone(adapter: dict[str, Any]) -> dict[str, Any]:
    return {"enabled": True, "main_adapter": adapter, "co_models": []}


def _interact_alone(adapters: Mapping[str, str]) -> dict[str, Any]:
    return _alone({"adapter": adapters[INTERACT]})


def _migc_alone(adapters: Mapping[str, str]) -> dict[str, Any]:
    return _alone({"adapter": adapters[MIGC], "until": MIGC_SHARE})


def _together(adapters: Mapping[str, str], slot: Mapping[str, Any], **main: Any) -> dict[str, Any]:
    co_model = {"checkpoint": MAIN_CHECKPOINT, "adapter": adapters[MIGC], "until": MIGC_SHARE, **slot}
    return {"enabled": True, **main, "main_adapter": {"adapter": adapters[INTERACT]}, "co_models": [co_model]}


def _paper(adapters: Mapping[str, str]) -> dict[str, Any]:
    slot = {"gamma": 0.5, "eta": 55, "noise": "independent"}
    return _together(adapters, slot, steps=3, evaluations=0, eta=45, correction="paper")


def _released(adapters: Mapping[str, str]) -> dict[str, Any]:
    """Mix in steps 2 to 4, with MIGC in 20 of 50 steps.

    The code weighs the latents with 0.5 and sqrt(1 - 0.5^2). For latents at a right angle, such as those from
    independent noise, these are the weights of slerp at gamma 2/3.
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
"""The recipes by their names on the command line: label, settings, and the adapters that they need."""


def built_in(name: str, listed: Sequence[str], chosen: Mapping[str, str]) -> Recipe:
    """Make a built-in recipe with adapters of the list: the chosen ones, or the first with a fitting name."""
    if name not in BUILT_IN:
        raise AmdmError(f'"{name}" is not a method; choose among {", ".join(BUILT_IN)}, or give --settings.')
    label, settings, needed = BUILT_IN[name]
    return Recipe(name, label, settings({part: _listed(part, listed, chosen.get(part, "")) for part in needed}))


def from_file(file: Path) -> Recipe:
    """Make a recipe from a file of settings, in the API's form."""
    content = read_json(file, "a file of AMDM's settings as the API takes them")
    try:
        settings = Settings.from_dict(content)
    except SettingsError as error:
        raise AmdmError(f'"{file.name}": {error}') from error
    if not settings.runs:
        raise AmdmError(f'"{file.name}" runs nothing; set "enabled", and name a co-model or an adapter.')
    if not fits_a_file(file.stem):
        raise AmdmError(f'"{file.name}" must be named by {NAMED_BY}, for a folder has its name; call it otherwise.')
    if file.stem in BUILT_IN:
        raise AmdmError(f'"{file.name}" has the name of a built-in method; call it otherwise.')
    return Recipe(file.stem, file.stem, content)


def _listed(part: str, listed: Sequence[str], chosen: str) -> str:
    if chosen in listed:
        return chosen
    fitting = [title for title in listed if part in title.lower()]
    if chosen or not fitting:
        wish = f'"{chosen}"' if chosen else f'with "{part}" in its name'
        titles = ", ".join(listed) or "empty"
        raise AmdmError(
            f"{_TITLES[part]}: no adapter {wish} is in the list ({titles}); put it there and refresh the list, or "
            f"name it with --{part}."
        )
    return fitting[0]
