"""The state of a file when it was read."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


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


class ByState(Generic[T]):
    """The results of `read` for files, each read once per state; None for one that has gone."""

    def __init__(self, read: Callable[[Path], T | None]) -> None:
        self._read = read
        self._known: dict[FileState, T | None] = {}

    def of(self, path: str | Path) -> T | None:
        try:
            state = FileState.of(str(path))
        except OSError:
            return None
        if state not in self._known:
            self._known[state] = self._read(Path(path))
        return self._known[state]
