"""AMDM's settings as axes of the WebUI's X/Y/Z plot.

An axis switches on what it varies: AMDM itself, even if its panel is closed, and the slot it names. Otherwise it
would do nothing, without notice. Only "[AMDM] enabled" changes nothing else. The unchanged picture for comparison is
the cell with K = 0, gamma = 0, checkpoint None or enabled False.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from ..comodels.file_list import without_folder
from ..comodels.placing import device_choices
from ..hosts.protocol import Host, Lists
from ..hosts.webui_types import Processing
from ..settings import (
    NO_ADAPTER,
    AdapterSettings,
    AdapterSpec,
    CheckpointSpec,
    CoModel,
    DeviceSpec,
    ListedSpec,
    Part,
    Settings,
    SettingsError,
    Spec,
    SwitchSpec,
    WordSpec,
    named,
    specs,
)
from . import listed, options

HELD_IN = "amdm_xyz"
"""The attribute of the WebUI's processing object that holds the values of one cell."""

MAIN, ALL, MAIN_ADAPTER = 0, -1, -2
COSTS: dict[type[Spec], float] = {CheckpointSpec: 1.0, AdapterSpec: 0.5}
"""The cost of a change, from 0 to 1: the plot changes the most expensive axis least often."""
_RANGE = re.compile(r"\d\.?\s*-")
CAPTIONS = {"steps": "steps (K)", "enabled": "enabled", "cfg_scale": "CFG", "evaluations": "evaluations (E)"}


class Target(NamedTuple):
    """The setting that an axis varies, by its API name, and its owner.

    The owner is the main settings, the main model's adapter, all slots, or one slot from 1 on.
    """

    slot: int
    name: str

    @property
    def holder(self) -> type[Settings] | type[AdapterSettings] | type[CoModel]:
        return {MAIN: Settings, MAIN_ADAPTER: AdapterSettings}.get(self.slot, CoModel)

    @property
    def spec(self) -> Spec:
        return named(self.name, specs(self.holder))

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
    host.on("before_ui", lambda: _add_axes(host))


def overlay(settings: Settings, xyz: Mapping[Target, Any]) -> Settings:
    """Return the settings of one cell; SettingsError names an axis that varies nothing or a value that cannot be used.

    An axis of one slot overrides an axis of all slots.
    """
    if not xyz:
        return settings
    numbers = range(1, max(len(settings.co_models), *(target.slot for target in xyz)) + 1)
    slots = dict(zip(numbers, (*settings.co_models, *(CoModel() for _ in numbers))))
    main: dict[str, Any] = {"enabled": True}
    main_adapter = settings.main_adapter
    for target in sorted(xyz):
        change = {target.spec.attribute: target.spec.check(xyz[target], target.label)}
        if target.slot == MAIN:
            main |= change
        elif target.slot == MAIN_ADAPTER:
            main_adapter = replace(main_adapter, **change)
        elif target.slot == ALL:
            slots = {number: replace(slot, **change) for number, slot in slots.items()}
        else:
            slots[target.slot] = replace(slots[target.slot], **{"enabled": True, **change})
    result = replace(settings, **main, main_adapter=main_adapter, co_models=tuple(slots.values())).checked()
    if result.enabled:
        _refuse_idle(result, xyz)
    return result


def _refuse_idle(settings: Settings, xyz: Mapping[Target, Any]) -> None:
    """Refuse an axis that varies nothing: a slot needs a checkpoint, or an axis that takes it away on purpose.

    The same holds for adapters, and for the edges of regions.
    """
    slots = dict(enumerate(settings.co_models, 1))
    chosen = {target.slot for target in xyz if isinstance(target.spec, CheckpointSpec)}
    chosen |= {number for number, slot in slots.items() if slot.used}
    placed = {number for number in chosen & slots.keys() if slots[number].region or slots[number].mask}
    adapted = {target.slot for target in xyz if isinstance(target.spec, AdapterSpec)}
    adapted |= {number for number in chosen & slots.keys() if slots[number].adapter not in ("", NO_ADAPTER)}
    if settings.main_adapter.adapter not in ("", NO_ADAPTER):
        adapted.add(MAIN_ADAPTER)
    for target in xyz:
        number, spec = target.slot if target.slot in (MAIN_ADAPTER, *slots) else 1, target.spec
        if target.slot != MAIN_ADAPTER and not isinstance(spec, SwitchSpec) and _lacks(target.slot, chosen):
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but co-model {number} has no checkpoint; choose one in the '
                f'panel, or add the axis "{Target(number, "checkpoint").label}".'
            )
        if spec.part is Part.REGION and _lacks(target.slot, placed):
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but no co-model has a region; give one its boxes or its mask '
                "in the panel."
            )
        those = adapted - {MAIN_ADAPTER} if target.slot == ALL else adapted
        if spec.part is Part.ADAPTER and not isinstance(spec, AdapterSpec) and _lacks(target.slot, those):
            whose = "the main model" if target.slot == MAIN_ADAPTER else f"co-model {number}"
            raise SettingsError(
                f'AMDM: the plot varies "{target.label}", but {whose} has no adapter; choose one in the panel, or add '
                f'the axis "{Target(number, "adapter").label}".'
            )


def _lacks(slot: int, slots: set[int]) -> bool:
    """Return True if an axis's slot is not among `slots`; an axis of all slots, or of none, needs any."""
    return not slots if slot in (MAIN, ALL) else slot not in slots


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
    yield Target(ALL, "size")
    yield from (Target(number, "device") for number in numbers)
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
    spec = target.spec

    def apply(p: Processing, value: Any, _all: Sequence[Any]) -> None:
        # p is a shallow copy of the plot's own: what it holds is replaced, never changed
        setattr(p, HELD_IN, {**getattr(p, HELD_IN, {}), target: _value(host, spec, value)})

    def prepare(text: str) -> list[str]:
        texts = (entry.strip() for entry in text.split(","))
        return [_number_text(spec, kind, entry, target.label) for entry in texts if entry]

    def confirm(_p: Any, values: Sequence[Any]) -> None:
        if isinstance(spec, ListedSpec):
            _refuse_unknown(host, spec, values)
        for value in values:
            spec.check(_value(host, spec, value), target.label)

    def caption(_p: Any, _option: Any, value: Any) -> str:
        if isinstance(spec, ListedSpec):
            whose = "main model" if target.slot == MAIN_ADAPTER else f"co-model {target.slot}"
            return f"{whose}: {without_folder(value)}"
        return f"{target.label}: {spec.shown(spec.check(_value(host, spec, value), target.label)) or EMPTY}"

    choices: Callable[[], list[str]] | None = None
    if isinstance(spec, ListedSpec):
        choices = partial(listed.choices, host, spec)
    elif spec.type is bool:
        choices = partial(list, ("True", "False"))
    elif isinstance(spec, DeviceSpec):
        choices = device_choices
    elif spec.choices:
        choices = partial(list, spec.choices)
    # the plot calls this type on each text, and bool("False") is True
    kind = spec.type if spec.type in (int, float) else str
    cost = COSTS.get(type(spec), 0.0)
    return module.AxisOption(
        target.label,
        kind,
        apply,
        format_value=caption,
        confirm=confirm,
        cost=cost,
        choices=choices,
        prepare=None if kind is str else prepare,
    )


WORD = -1
"""The number that represents a word on an axis of numbers."""
EMPTY = "empty"
"""The word for a setting that is left empty: the plot drops an empty value."""


def _number_text(spec: Spec, kind: type, text: str, label: str) -> str:
    """Return a text of an axis in a form that the plot can read: a number, a range, or the number for a word.

    SettingsError if it is none of these: the plot would show a Python error.
    """
    if isinstance(spec, WordSpec) and not spec.word and text.lower() == EMPTY:
        return str(math.nan)
    try:
        number = kind(text)
    except ValueError:
        if not _RANGE.search(text):
            value = spec.check(text, label)
            return str(WORD if isinstance(spec, WordSpec) and value == spec.meaning else value)
        return text
    if math.isnan(number):
        spec.check(number, label)
    return text


def _value(host: Lists, spec: Spec, value: Any) -> Any:
    """Read a value of the plot for its setting; one that cannot be read stays, so that the check can name it."""
    if isinstance(value, float) and math.isnan(value) and isinstance(spec, WordSpec):
        return spec.word
    if isinstance(value, float):
        # ranges are sums of floats: what is written into the picture shall read 0.3, not 0.30000000000000004
        value = round(value, 8)
    if isinstance(spec, WordSpec) and spec.word and value == WORD:
        return spec.word
    if isinstance(value, float):
        return value
    if spec.type is bool:
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    if isinstance(spec, ListedSpec):
        return _title(host, spec, value) or value
    return value


def _title(host: Lists, spec: ListedSpec, name: str) -> str | None:
    """Return the title of a checkpoint or an adapter, or the word for none; None if it is unknown."""
    word = next((word for word in spec.words if word.lower() == name.strip().lower()), None)
    return word or listed.title(host, spec, name)


def _refuse_unknown(host: Lists, spec: ListedSpec, names: Sequence[str]) -> None:
    unknown = [f'"{name}"' for name in names if _title(host, spec, name) is None]
    if unknown:
        of = "the WebUI's list of checkpoints" if isinstance(spec, CheckpointSpec) else "the list of adapters"
        words = f"{' and '.join(spec.words)} {'are' if len(spec.words) > 1 else 'is'} allowed too"
        raise SettingsError(
            f"AMDM: the plot names what is not in {of}: {', '.join(unknown)}; refresh the list or correct the name "
            f"({words})."
        )
