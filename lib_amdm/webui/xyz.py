"""AMDM's settings as axes of the WebUI's X/Y/Z plot.

An axis switches on what it varies: AMDM itself, even while its panel is closed, and the slot it names. It would do
nothing otherwise, and the plot would not say so. Only "[AMDM] enabled" leaves everything else as it stands. The
untouched picture to compare with is the cell with K = 0, gamma = 0, checkpoint None or enabled False.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

from ..hosts.protocol import Host, Lists
from ..settings import (
    MAIN_CHECKPOINT,
    NO_ADAPTER,
    NO_CHECKPOINT,
    AdapterSettings,
    CoModel,
    Settings,
    SettingsError,
    Spec,
    attribute,
    specs,
)
from . import options

HELD_IN = "amdm_xyz"
"""The attribute of the WebUI's processing object that carries the values of one cell."""

MAIN, ALL, MAIN_ADAPTER = 0, -1, -2
OF_ADAPTERS = ("strength", "until")
LISTED = ("checkpoint", "adapter")
"""What is chosen from a list of files."""
CAPTIONS = {"steps": "steps (K)", "enabled": "enabled", "cfg_scale": "CFG", "evaluations": "evaluations (E)"}


class Target(NamedTuple):
    """What an axis varies: a setting by its API name, and whose: the main one's, that of the main model's adapter, that
    of all slots, or that of one slot from 1 on."""

    slot: int
    name: str

    @property
    def holder(self) -> type[Settings] | type[AdapterSettings] | type[CoModel]:
        return {MAIN: Settings, MAIN_ADAPTER: AdapterSettings}.get(self.slot, CoModel)

    @property
    def spec(self) -> Spec:
        return next(spec for spec in specs(self.holder) if spec.name == self.name)

    @property
    def label(self) -> str:
        """The axis's name in the plot, such as "[AMDM] gamma of co-model 2"."""
        caption = f"[AMDM] {CAPTIONS.get(self.name, self.spec.label)}"
        return f"{caption} of co-model {self.slot}" if self.slot > 0 else caption


def register(host: Host) -> None:
    """Add the axes now, and again when the WebUI is about to build its page, for a plot script that is loaded later.

    An API without a page has read the plot's axes before that moment, so the first time is the one that counts there.
    """
    _add_axes(host)
    host.on_before_ui(lambda: _add_axes(host))


def overlay(settings: Settings, xyz: Mapping[Target, Any]) -> Settings:
    """The settings of one cell; SettingsError names an axis that varies nothing or a value that cannot be used.

    What is said of one slot goes before what is said of all.
    """
    if not xyz:
        return settings
    numbers = range(1, max(len(settings.co_models), *(target.slot for target in xyz)) + 1)
    slots = dict(zip(numbers, (*settings.co_models, *(CoModel() for _ in numbers))))
    main, adapted = {"enabled": True}, settings.main_adapter
    for target in sorted(xyz):
        change = {attribute(target.holder, target.name): target.spec.check(xyz[target], target.label)}
        if target.slot == MAIN:
            main |= change
        elif target.slot == MAIN_ADAPTER:
            adapted = replace(adapted, **change)
        elif target.slot == ALL:
            slots = {number: replace(slot, **change) for number, slot in slots.items()}
        else:
            slots[target.slot] = replace(slots[target.slot], **{"enabled": True, **change})
    result = replace(settings, **main, main_adapter=adapted, co_models=tuple(slots.values())).checked()
    if result.enabled:
        _refuse_idle(result, xyz)
    return result


def _refuse_idle(settings: Settings, xyz: Mapping[Target, Any]) -> None:
    """An axis must vary something: a slot with a checkpoint, or one that gets none in this cell on purpose.

    The same holds for adapters, and for the edges of regions.
    """
    slots = dict(enumerate(settings.co_models, 1))
    chosen = {target.slot for target in xyz if target.name == "checkpoint"}
    chosen |= {number for number, slot in slots.items() if slot.used}
    placed = {number for number in chosen & slots.keys() if slots[number].region or slots[number].mask}
    adapted = {target.slot for target in xyz if target.name == "adapter"}
    adapted |= {number for number in chosen & slots.keys() if slots[number].adapter not in ("", NO_ADAPTER)}
    if settings.main_adapter.adapter not in ("", NO_ADAPTER):
        adapted.add(MAIN_ADAPTER)
    for target in xyz:
        number = target.slot if target.slot in (MAIN_ADAPTER, *slots) else 1
        if target.slot != MAIN_ADAPTER and target.name != "enabled" and _lacks(target.slot, chosen):
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but co-model {number} has no checkpoint; choose one in the '
                f'panel, or add the axis "{Target(number, "checkpoint").label}".'
            )
        if target.name == "feather" and _lacks(target.slot, placed):
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but no co-model has a region; give one its boxes or its mask '
                "in the panel."
            )
        of_slots = target.slot == ALL
        if target.name in OF_ADAPTERS and _lacks(target.slot, adapted - {MAIN_ADAPTER} if of_slots else adapted):
            whose = "the main model" if target.slot == MAIN_ADAPTER else f"co-model {number}"
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but {whose} has no adapter; choose one in the panel, or add '
                f'the axis "{Target(number, "adapter").label}".'
            )


def _lacks(slot: int, found: set[int]) -> bool:
    """Whether what an axis varies is not among what was `found`; one of all slots, or of none, needs any."""
    return not found if slot in (MAIN, ALL) else slot not in found


def _targets(slots: int) -> Iterator[Target]:
    numbers = range(1, slots + 1)
    yield Target(MAIN, "enabled")
    yield Target(MAIN, "steps")
    yield Target(MAIN, "evaluations")
    yield Target(ALL, "gamma")
    yield from (Target(number, "gamma") for number in numbers)
    yield Target(ALL, "gamma_end")
    yield Target(MAIN, "eta")
    yield from (Target(number, "eta") for number in numbers)
    yield Target(MAIN, "correction")
    yield Target(ALL, "feather")
    yield from (Target(number, "checkpoint") for number in numbers)
    yield from (Target(number, "cfg_scale") for number in numbers)
    yield Target(ALL, "noise")
    yield Target(ALL, "strength")
    yield from (Target(number, "strength") for number in numbers)
    yield Target(ALL, "until")
    yield from (Target(number, "adapter") for number in numbers)
    yield from (Target(MAIN_ADAPTER, name) for name in ("adapter", "strength", "until"))


def _add_axes(host: Host) -> None:
    module = host.xyz_module()
    if module is None:
        return
    # a reloaded page comes here again, with or without a fresh list
    present = {option.label for option in module.axis_options}
    module.axis_options.extend(
        _option(module, host, target) for target in _targets(options.slots(host)) if target.label not in present
    )


def _option(module: ModuleType, host: Host, target: Target) -> Any:
    def apply(p: Any, given: Any, _all: Sequence[Any]) -> None:
        # p is a shallow copy of the plot's own: what it holds is replaced, never changed
        setattr(p, HELD_IN, {**getattr(p, HELD_IN, {}), target: _value(host, target, given)})

    def confirm(_p: Any, given: Sequence[Any]) -> None:
        if target.name in LISTED:
            _refuse_unknown(host, target.name, given)
        for value in given:
            target.spec.check(_value(host, target, value), target.label)

    def caption(_p: Any, _option: Any, given: Any) -> str:
        if target.name in LISTED:
            whose = "main model" if target.slot == MAIN_ADAPTER else f"co-model {target.slot}"
            return f"{whose}: {_without_folder(given)}"
        return f"{target.label}: {target.spec.shown(_value(host, target, given))}"

    more: dict[str, Any] = {}
    if target.name == "checkpoint":
        more = {"cost": 1.0, "choices": lambda: [NO_CHECKPOINT, MAIN_CHECKPOINT, *host.checkpoint_titles()]}
    elif target.name == "adapter":
        more = {"cost": 0.5, "choices": lambda: [NO_ADAPTER, *host.adapter_titles()]}
    elif target.spec.type is bool:
        more = {"choices": lambda: ["True", "False"]}
    elif target.spec.choices:
        more = {"choices": lambda: list(target.spec.choices)}
    # the plot calls this type on each text, and bool("False") is True
    kind = target.spec.type if target.spec.type in (int, float) else str
    return module.AxisOption(target.label, kind, apply, format_value=caption, confirm=confirm, **more)


def _value(host: Lists, target: Target, given: Any) -> Any:
    """What a value of the plot means for its setting; what cannot be read stays, so that the check can name it."""
    if isinstance(given, float):
        # ranges are sums of floats: what is written into the picture shall read 0.3, not 0.30000000000000004
        return round(given, 8)
    if target.spec.type is bool:
        return {"true": True, "false": False}.get(given.strip().lower(), given)
    if target.name in LISTED:
        return _title(host, target.name, given) or given
    return given


def _title(host: Lists, kind: str, name: str) -> str | None:
    """The title of a checkpoint or an adapter; None where it is in no list."""
    words = {"checkpoint": (NO_CHECKPOINT, MAIN_CHECKPOINT), "adapter": (NO_ADAPTER,)}[kind]
    own = next((word for word in words if word.lower() == name.strip().lower()), None)
    return own or (host.checkpoint_title(name) if kind == "checkpoint" else host.adapter_title(name))


def _without_folder(title: str) -> str:
    return re.split(r"[/\\]", title)[-1]


def _refuse_unknown(host: Lists, kind: str, names: Sequence[str]) -> None:
    unknown = [f'"{name}"' for name in names if _title(host, kind, name) is None]
    if unknown:
        lists, too = {
            "checkpoint": (
                "the WebUI's list of checkpoints",
                f"{NO_CHECKPOINT} and {MAIN_CHECKPOINT} are allowed too",
            ),
            "adapter": ("the list of adapters", f"{NO_ADAPTER} is allowed too"),
        }[kind]
        raise SettingsError(
            f"AMDM: the plot names what is not in {lists}: {', '.join(unknown)}; refresh the list or correct the name "
            f"({too})."
        )
