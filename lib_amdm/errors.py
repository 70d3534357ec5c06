"""AMDM's errors, and their wording: one sentence on one line, of bounded length whatever it quotes."""

from __future__ import annotations

import reprlib
import traceback
from typing import Any

LONGEST = 500
"""The most characters of an error's text."""
SHORT = 80
"""The most characters of a quoted value."""
_CUT = "..."


class AmdmError(Exception):
    """A request that AMDM cannot fulfil: one sentence that names the co-model, the file or setting, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_sentence(message))


class AdapterError(ValueError):
    """A request that an adapter cannot fulfil: one sentence that names the file or the setting, and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_sentence(message))


class FileError(AdapterError):
    """A file that cannot be read, whatever it is used for: one sentence that names it, and the remedy."""


def let_go(error: BaseException | None) -> None:
    """Clear the frames of an error and the tracebacks of its causes, which would keep a model in memory.

    A cleared frame still has its function, and with it the enclosing variables.
    """
    causes, waiting = set[int](), [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in causes:
            continue
        traceback.clear_frames(current.__traceback__)
        if current is not error:
            current.__traceback__ = None
        causes.add(id(current))
        waiting += [current.__cause__, current.__context__]


def one_sentence(text: str, limit: int = LONGEST) -> str:
    """Put `text` on one line that every console can show.

    A text that is too long is cut in the middle: an error begins with its subject, and ends with the remedy.
    """
    line = " ".join(text.split())
    return clipped(line.encode("utf-8", "replace").decode("utf-8"), limit)


def cause(error: Exception) -> str:
    """Word a library's error as a part of a sentence, without the path of a file."""
    text = error.strerror if isinstance(error, OSError) and error.filename is not None else error
    return clipped(one_sentence(f"{type(error).__name__}: {text}"), 200)


def clipped(text: str, limit: int = SHORT) -> str:
    """Cut `text` to at most `limit` characters: its beginning and its end."""
    if len(text) <= limit:
        return text
    # more of the end: a remedy is longer than the subject
    tail = (limit - len(_CUT)) * 3 // 5
    return text[: limit - len(_CUT) - tail] + _CUT + text[len(text) - tail :]


def short(value: Any) -> str:
    """Write `value` as Python does, but briefly, also if it is large."""
    return clipped(" ".join(_WRITER.repr(value).split()))


class _Writer(reprlib.Repr):
    """Python's short `repr`, except that it takes integers of thousands of digits and sorts nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = SHORT

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 4 * SHORT:
            return "a whole number of very many digits"
        return repr(value)

    def repr_bytes(self, value: bytes, level: int) -> str:
        return clipped(repr(value[:SHORT]))

    def repr_dict(self, value: dict[Any, Any], level: int) -> str:
        if not value or level <= 0:
            return f"{{{_CUT if value else ''}}}"
        shown = list(zip(value, range(self.maxdict)))
        parts = [f"{self.repr1(key, level - 1)}: {self.repr1(value[key], level - 1)}" for key, _ in shown]
        return f"{{{', '.join([*parts, _CUT] if len(value) > len(shown) else parts)}}}"


_WRITER = _Writer()
