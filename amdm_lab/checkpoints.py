"""Checkpoints by their files: a WebUI adds a hash to a title once it has read the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib_amdm.comodels.file_list import find_title, without_hash
from lib_amdm.errors import AmdmError


def find_file(name: str, titles: Iterable[str]) -> str | None:
    """Return the file that a name means in a list of titles, or None: see `find_title`."""
    title = find_title(name, titles)
    return None if title is None else without_hash(title)


def listed_file(name: str, titles: Iterable[str], argument: str) -> str:
    """Return the file that a name means in a list of titles; AmdmError names the argument that takes another name."""
    file = find_file(name, titles)
    if file is None:
        wish = f'"{name}" is not in the list of checkpoints' if name else "No checkpoint is named"
        listed = ", ".join(map(without_hash, titles)) or "the list is empty"
        raise AmdmError(f"{wish}; choose one with {argument} ({listed}).")
    return file


def by_file(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an order with checkpoints by their files, which stay when a title gets a hash."""
    named = {**order, "checkpoint": without_hash(order["checkpoint"])}
    if order.get("refiner"):
        checkpoint, share = order["refiner"]
        named["refiner"] = [without_hash(checkpoint), share]
    if order.get("settings"):
        slots = order["settings"].get("co_models") or ()
        co_models = [{**slot, "checkpoint": without_hash(slot.get("checkpoint", ""))} for slot in slots]
        named["settings"] = {**order["settings"], "co_models": co_models}
    return named
