"""The state of a file when it was read."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple


class FileState(NamedTuple):
    """The state of a file when it was read; if it differs, the file must be read again."""

    path: str
    changed: int
    size: int

    @classmethod
    def of(cls, path: str) -> FileState:
        stat = Path(path).stat()
        return cls(str(path), stat.st_mtime_ns, stat.st_size)

    @classmethod
    def of_loaded(cls, path: str) -> Hashable:
        """Return the state of a file that a host has loaded.

        If the file has gone since, its state equals no other, so whatever depends on it is made anew each time.
        """
        try:
            return cls.of(path)
        except OSError:
            return object()
