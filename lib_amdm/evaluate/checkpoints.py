"""Checkpoints by their files: a WebUI adds a hash to a title once it has read the file, which stays the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..comodels.file_list import find_title

_HASH = re.compile(r" \[([0-9a-fA-F]+)\]$")


def file_of(title: str) -> str:
    """Return a checkpoint's title without the hash behind it; every WebUI takes that for the checkpoint's name."""
    return _HASH.sub("", title)


def find_file(name: str, titles: Iterable[str]) -> str | None:
    """Return the file that a name means in a list of titles, or None.

    A name is a title of now or before, what `find_title` takes, or the hash alone.
    """
    titles = list(titles)
    hashes = {found[1].lower(): file_of(title) for title in titles if (found := _HASH.search(title))}
    return find_title(name, dict.fromkeys(map(file_of, titles))) or hashes.get(name.strip().lower())


def by_file(order: Mapping[str, Any]) -> dict[str, Any]:
    """Return an order's fields with each checkpoint by its file, so that orders of before and after are the same."""
    named = {**order, "checkpoint": file_of(order["checkpoint"])}
    if order.get("refiner"):
        checkpoint, share = order["refiner"]
        named["refiner"] = [file_of(checkpoint), share]
    if order.get("settings"):
        slots = order["settings"].get("co_models") or ()
        co_models = [{**slot, "checkpoint": file_of(slot.get("checkpoint", ""))} for slot in slots]
        named["settings"] = {**order["settings"], "co_models": co_models}
    return named
