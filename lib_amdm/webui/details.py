"""AMDM in the details that a detailer draws inside a picture: the settings they get, and the entries they add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import AdapterError, AmdmError
from ..hosts.protocol import Runner
from ..hosts.webui_types import Processed, Processing
from ..settings import Settings, SettingsError
from . import compare, infotext, xyz

_HAD_SOME = "_amdm_had_details"
_BEFORE = "_amdm_before_details"


class Details:
    """The details of a picture that is being drawn. A script has one for all its pictures, one after the other."""

    def __init__(self) -> None:
        self.entries: dict[str, Any] = {}
        """The infotext entries of the picture's details."""
        self._comments: list[Mapping[str, Any]] = []
        self._settings: dict[str, Any] = {}

    def begin(self, p: Processing) -> None:
        """Record the settings that a plot or a comparison gave the picture, for its details."""
        for name in (_HAD_SOME, _BEFORE):
            vars(p).pop(name, None)
        self._settings = {name: vars(p)[name] for name in (xyz.HELD_IN, compare.SETTINGS) if name in vars(p)}

    def hand_on(self, detail: Processing) -> None:
        """Give a detail the settings of its picture."""
        vars(detail).update(self._settings)

    def follow(self, host: Runner, detail: Processing) -> None:
        """Note a detail's comments, which its detailer drops."""
        self._comments.append(host.comments(detail))

    def forget(self, p: Processing) -> None:
        """Take the details of an earlier picture of the same request out of the entries."""
        before = vars(p).pop(_BEFORE, None)
        if before is not None:
            p.extra_generation_params = {**infotext.without(p.extra_generation_params), **before}
        self.entries, self._comments = {}, []

    def write(self, host: Runner, p: Processing) -> None:
        """Add the entries of a picture's details to its infotext, and their comments to its own."""
        entries, comments = self.entries, self._comments
        self.forget(p)
        for text in (text for of_detail in comments for text in of_detail if text.startswith("AMDM")):
            host.comment(p, text)
        if entries:
            ours = infotext.amdm_entries(p.extra_generation_params)
            # on the picture: ADetailer ends and begins copies of it in between
            vars(p).update({_HAD_SOME: True, _BEFORE: ours})
            p.extra_generation_params.update(infotext.with_details(ours, entries))


def join(host: Runner, p: Processing, read_settings: Callable[[], Settings], script: str) -> None:
    """Let AMDM take part in the details of a picture whose settings say so. script: the file of its script."""
    settings = _read(read_settings)
    if settings is not None and settings.runs and settings.in_details:
        host.join_details(p, script)


def say_if_none(p: Processing, processed: Processed, read_settings: Callable[[], Settings]) -> None:
    """Add a comment if models were to run together in the details alone, and there was none."""
    if getattr(p, _HAD_SOME, False):
        return
    settings = _read(read_settings)
    if settings is not None and settings.mixes and settings.which_pass == "detailer":
        processed.comments += (
            'AMDM: "pass" is set to detailer, but ADetailer drew no detail with AMDM, so no co-model was run; switch '
            "ADetailer on, or choose another pass.\n"
        )


def _read(read_settings: Callable[[], Settings]) -> Settings | None:
    """Return the settings; None if they are invalid, which the sampler hook reports."""
    try:
        return read_settings()
    except (SettingsError, AmdmError, AdapterError):
        return None
