"""Values in a picture's infotext by their keys, and the evaluations that it took."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from lib_amdm.comodels.file_list import without_hash

_VALUE = re.compile(r'(?:^|, )([^:,"]+): ("(?:\\.|[^"\\])*"|[^,]*)')
_RAN = re.compile(r"(\d{1,3}) models?, .*? steps?, (.+?)(?:, \+[\d.]+ s of [\d.]+ s)?")
_COUNT = r"(\d{1,9}) evaluations? of "


def values_of(infotext: str) -> dict[str, str]:
    """Return the values in the line of an infotext that has the settings, unquoted.

    It is the last one, but for what other extensions write below it.
    """
    lines = infotext.strip().split("\n")
    line = next((line for line in reversed(lines) if line.startswith("Steps: ")), lines[-1])
    return {key.strip(): _unquoted(value) for key, value in _VALUE.findall(line)}


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value.strip('"')


def evaluations_in(infotext: str, titles: Sequence[str] = ()) -> dict[str, int]:
    """Read each co-model's evaluations in an infotext's "AMDM ran"; co-models of one name count together.

    titles: of the co-models in their order, where they are known: a title may read like two of them.
    """
    ran = _RAN.fullmatch(values_of(infotext).get("AMDM ran", ""))
    if not ran:
        return {}
    named = " and ".join(f"{_COUNT}({re.escape(title)}|{re.escape(_shown(title))})" for title in titles)
    whole = re.fullmatch(named, ran[2]) if titles else None
    found: list[tuple[str, ...]]
    if whole:
        found = list(zip(whole.groups()[::2], whole.groups()[1::2]))
    else:
        parts = re.split(f" and (?={_COUNT.replace('(', '(?:')})", ran[2])
        found = [each.groups() for part in parts if (each := re.fullmatch(f"{_COUNT}(.+)", part))]
    evaluations: dict[str, int] = {}
    for count, name in found:
        evaluations[name] = evaluations.get(name, 0) + int(count)
    return evaluations


def _shown(title: str) -> str:
    """Return a title as the line has it, without folder, suffix and hash."""
    return re.sub(r"\.\w+$", "", without_hash(title).rpartition("/")[2])
