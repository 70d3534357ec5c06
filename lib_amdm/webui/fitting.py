"""Marks and sentences for checkpoints that are run through pixels or not at all with the main one, by their files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..comodels.file_list import without_hash
from ..core.plan import ESTIMATE_EVALUATIONS, NOISY_EVALUATIONS
from ..families import WITHOUT_FLOW, Family
from ..hosts.protocol import Lists
from ..settings import CheckpointSpec, CoModel, Settings, only, specs
from .infotext import counted

CLASS = "amdm-checkpoints"
"""Of the lists in which they are marked."""
_PLAIN = re.compile(r"[\w \-.,()\[\]/]")


Families = tuple[Family, Family]
"""Those of a checkpoint and of the main one."""


def misfit(host: Lists, main: str, name: str) -> Families | None:
    """Return the families of a checkpoint and of the main one if they cannot be combined.

    main: the main checkpoint's name. None also if the family of one of them is unknown, as for the words
    that mean no file.
    """
    families = _families(host, main, name)
    return families if families and not _combined(host, *families) else None


def through_pixels(host: Lists, main: str, name: str) -> Families | None:
    """Return the families of a checkpoint and of the main one if they are combined through pixels."""
    families = _families(host, main, name)
    return families if families and _combined(host, *families) and families[0].crosses(families[1]) else None


class Others(NamedTuple):
    """The checkpoints in the list, besides the main one, that can be run with it.

    sharing: those that share its latents. silent: of unknown family. crossing: those that are run through pixels.
    """

    sharing: list[str]
    silent: list[str]
    crossing: list[str]


def others(host: Lists) -> Others:
    """Return the titles of the checkpoints that can be run with the main one."""
    main = host.main_checkpoint()
    main_title = host.checkpoint_title(main)
    titles = [title for title in host.checkpoint_titles() if title != main_title]
    silent = [title for title in titles if host.checkpoint_family(title) is None]
    fit = [title for title in titles if title not in silent and misfit(host, main, title) is None]
    crossing = [title for title in fit if through_pixels(host, main, title)]
    return Others([title for title in fit if title not in crossing], silent, crossing)


def _combined(host: Lists, family: Family, of_main: Family) -> bool:
    return family.goes_with(of_main) and (host.runs_flow_models or not family.is_flow)


def _families(host: Lists, main: str, name: str) -> Families | None:
    if name in only(CheckpointSpec, specs(CoModel)).words:
        return None
    family, of_main = host.checkpoint_family(name), host.checkpoint_family(main)
    return None if family is None or of_main is None else (family, of_main)


def marks(host: Lists, main: str, titles: Iterable[str]) -> str:
    """Return a style sheet that shows the family of each checkpoint whose latents are not the main one's.

    Those that cannot be combined with it are grey.
    A mark in the entries' own text would be saved with a user's choice, and looked for as a file's name.
    """
    by_family: dict[tuple[str, bool], list[str]] = defaultdict(list)
    for title in titles:
        families = _families(host, main, title)
        if families is None:
            continue
        family, of_main = families
        if not _combined(host, family, of_main):
            by_family[str(family), True].append(title)
        elif family.crosses(of_main):
            by_family[f"{family}, through pixels", False].append(title)
    rules = [_rule(mark, is_grey, of_it) for (mark, is_grey), of_it in by_family.items()]
    return f"<style>{''.join(rules)}</style>" if rules else ""


def sentence(slot: int, name: str, main: str, families: Families) -> str:
    """Return the sentence for a slot's checkpoint that does not go with the main one."""
    family, of_main = families
    reason = family.reason_against(of_main) or WITHOUT_FLOW
    return f'Co-model {slot}: "{name}" is {family}, but the main checkpoint "{main}" is {of_main}: {reason}.'


def pixels_sentence(slot: int, families: Families | None, settings: Settings) -> str:
    """Return the sentence for a slot's checkpoint that is run through pixels: what it costs in a pass.

    families: None if the checkpoint shares the main one's latents, or may share them.
    """
    pair = f": {families[0]} alongside {families[1]}" if families else ""
    return f"Co-model {slot}{pair} is run through pixels: {_cost(settings)}."


def _cost(settings: Settings) -> str:
    usual, noisy = (_evaluations(settings, automatic) for automatic in (ESTIMATE_EVALUATIONS, NOISY_EVALUATIONS))
    if usual is None:
        return "2 decodings and 2 encodings in each mixed step"
    said = f"{counted(usual, 'evaluation')}, {2 * usual} decodings and {2 * usual} encodings"
    return said if noisy == usual else f"{said} ({noisy} with samplers that add noise)"


def _evaluations(settings: Settings, automatic: int) -> int | None:
    """Return the number of evaluations in a pass; None if only the pass's steps decide it."""
    wanted = automatic if isinstance(settings.evaluations, str) else settings.evaluations
    if isinstance(settings.steps, str):
        return wanted or None
    return min(wanted or settings.steps, settings.steps)


def _rule(mark: str, is_grey: bool, titles: list[str]) -> str:
    entries = f".{CLASS} li:is({','.join(selector for title in titles for selector in _selectors(title))})"
    behind = f"content:{_quoted(f'· {mark}')};margin-inline-start:.4em"
    grey = f"{entries}{{opacity:.5}}" if is_grey else ""
    return f"{grey}{entries}::after{{{behind}}}"


def _selectors(title: str) -> tuple[str, str]:
    """Return selectors that also match a file's entry in a list from before the file got its hash."""
    file = without_hash(title)
    return f"[aria-label={_quoted(file)}]", f"[aria-label^={_quoted(f'{file} [')}]"


def _quoted(text: str) -> str:
    """Quote a text for a style sheet, so that it can end neither its string nor the sheet."""
    return '"' + "".join(c if _PLAIN.fullmatch(c) else f"\\{ord(c):x} " for c in text) + '"'
