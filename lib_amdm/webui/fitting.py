"""Marks on the page for checkpoints that cannot be combined with the main one, from their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from ..comodels.file_list import without_hash
from ..families import Family
from ..hosts.protocol import Lists
from ..settings import CheckpointSpec, CoModel, only, specs

CLASS = "amdm-checkpoints"
"""Of the lists in which they are marked."""
_PLAIN = re.compile(r"[\w \-.,()\[\]/]")


def misfit(host: Lists, main: str, name: str) -> tuple[Family, Family] | None:
    """Return the families of a checkpoint and of the main one if they cannot be combined.

    main: the main checkpoint's name. None also if the family of one of them is unknown, as for the words
    that mean no file.
    """
    if name in only(CheckpointSpec, specs(CoModel)).words:
        return None
    family, of_main = host.checkpoint_family(name), host.checkpoint_family(main)
    return None if family is None or of_main is None or family.goes_with(of_main) else (family, of_main)


def marks(host: Lists, main: str, titles: Iterable[str]) -> str:
    """Return a style sheet that greys out the checkpoints that cannot be combined with the main one.

    It also shows their family.
    A mark in the entries' own text would be saved with a user's choice, and looked for as a file's name.
    """
    by_family: dict[str, list[str]] = defaultdict(list)
    for title in titles:
        families = misfit(host, main, title)
        if families is not None:
            by_family[str(families[0])].append(title)
    rules = [_rule(family, of_it) for family, of_it in by_family.items()]
    return f"<style>{''.join(rules)}</style>" if rules else ""


def sentence(slot: int, name: str, main: str, families: tuple[Family, Family]) -> str:
    """Return the sentence for a slot's checkpoint that does not go with the main one."""
    family, of_main = families
    return f'Co-model {slot}: "{name}" is {family}, but the main checkpoint "{main}" is {of_main}.'


def _rule(family: str, titles: list[str]) -> str:
    entries = f".{CLASS} li:is({','.join(selector for title in titles for selector in _selectors(title))})"
    behind = f"content:{_quoted(f'· {family}')};margin-inline-start:.4em"
    return f"{entries}{{opacity:.5}}{entries}::after{{{behind}}}"


def _selectors(title: str) -> tuple[str, str]:
    """Return selectors that also match a file's entry in a list from before the file got its hash."""
    file = without_hash(title)
    return f"[aria-label={_quoted(file)}]", f"[aria-label^={_quoted(f'{file} [')}]"


def _quoted(text: str) -> str:
    """Quote a text for a style sheet, so that it can end neither its string nor the sheet."""
    return '"' + "".join(c if _PLAIN.fullmatch(c) else f"\\{ord(c):x} " for c in text) + '"'
