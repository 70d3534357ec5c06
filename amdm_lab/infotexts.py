"""Values in a picture's infotext by their keys, and the evaluations that an API's answer says it took."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lib_amdm.comodels.file_list import readable, without_folder, without_hash

from .records import number

_VALUE = re.compile(r'(?:^|, )([^:,"]+): ("(?:\\.|[^"\\])*"|[^,]*)')


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


def evaluations_in(info: Mapping[str, Any]) -> dict[str, int]:
    """Read each co-model's evaluations in the `info` of an API's answer; co-models of one name count together."""
    passes = info.get("extra_generation_params", {}).get("AMDM passes", {})
    evaluations: dict[str, int] = {}
    for entry in (entry for ran in passes.values() for entry in ran["evaluations"]):
        name = _shown(readable(entry["checkpoint"]))
        evaluations[name] = evaluations.get(name, 0) + int(number(entry["evaluations"]))
    return evaluations


def _shown(title: str) -> str:
    """Return a title without folder, suffix and hash."""
    return re.sub(r"\.\w+$", "", without_folder(without_hash(title)))
