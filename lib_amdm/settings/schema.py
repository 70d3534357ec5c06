"""A dataclass of settings from its API form, back to it, and as JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from ..errors import clipped, short
from .spec import SettingsError, specs

Holder = TypeVar("Holder")


def name_in(name: str, owner: str) -> str:
    """Name a setting in an error: "gamma of co-model 2", or "steps" without an owner."""
    return f"{name} of {owner}" if owner else name


def read(of: type[Holder], values: Any, owner: str = "", beside: tuple[str, ...] = ()) -> Holder:
    """Build a dataclass from API names and values; the rest has its default.

    SettingsError names a setting that is unknown, of a wrong type or out of range. owner: see `name_in`. beside:
    further names that the caller reads itself.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(
            f'AMDM: "{owner}" must be an object of names and values, but it is {short(values)}; change it.'
        )
    known = {spec.name: spec for spec in specs(of)}
    unknown = [name for name in values if name not in known]
    if unknown:
        name = clipped(unknown[0]) if isinstance(unknown[0], str) else short(unknown[0])
        raise SettingsError(
            f'AMDM: "{name_in(name, owner)}" is not a setting; the settings here are {", ".join([*known, *beside])}.'
        )
    return of(
        **{known[name].attribute: known[name].check(value, name_in(name, owner)) for name, value in values.items()}
    )


def values(holder: object) -> dict[str, Any]:
    """Return a dataclass's settings by their API names; `read` of it gives an equal dataclass."""
    return {spec.name: getattr(holder, spec.attribute) for spec in specs(type(holder))}


def object_schema(of: type) -> dict[str, Any]:
    """Describe a dataclass's settings as a JSON Schema object."""
    properties = {spec.name: spec.schema() for spec in specs(of)}
    return {"type": "object", "additionalProperties": False, "properties": properties}
