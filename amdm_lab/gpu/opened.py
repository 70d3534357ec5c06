"""The files that this process opens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_watching: list[tuple[Path, list[str]]] = []
_hooked: list[bool] = []


@contextmanager
def opened(folder: Path) -> Iterator[list[str]]:
    """Collect the names of a folder's files that are opened, by Python; a checkpoint's header is read by it."""
    if not _hooked:
        # such a hook stays as long as the process
        sys.addaudithook(_heard)
        _hooked.append(True)
    entry: tuple[Path, list[str]] = (folder.resolve(), [])
    _watching.append(entry)
    try:
        yield entry[1]
    finally:
        _watching.remove(entry)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watching or not isinstance(arguments[0], (str, bytes)):
        return
    path = Path(arguments[0].decode(errors="replace") if isinstance(arguments[0], bytes) else arguments[0])
    for folder, names in list(_watching):
        if folder in path.absolute().parents:
            names.append(path.name)
