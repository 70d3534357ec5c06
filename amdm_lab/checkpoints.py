"""Checkpoints by their files: a WebUI adds a hash to a title once it has read the file, which stays the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib_amdm.comodels.file_list import find_title, without_hash


def find_file(name: str, titles: Iterable[str]) -> str | None:
    """Return the file that a name means in a list of titles, or None: see `find_title`."""
    title = find_title(name, titles)
    return None if title is None else without_hash(title)


def by_file(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order's fields with each checkpoint by its file, so that orders of before and after are the same."""
    named = {**order, "checkpoint": without_hash(order["checkpoint"])}
    if order.get("refiner"):
        checkpoint, share = order["refiner"]
        named["refiner"] = [without_hash(checkpoint), share]
    if order.get("settings"):
        slots = order["settings"].get("co_models") or ()
        co_models = [{**slot, "checkpoint": without_hash(slot.get("checkpoint", ""))} for slot in slots]
        named["settings"] = {**order["settings"], "co_models": co_models}
    return named
