"""Files kept between runs, and reading them back from folders that others may have changed."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from lib_amdm.command_line import put
from lib_amdm.errors import AmdmError, cause
from lib_amdm.files.pictures import MAX_PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
"""The formats that a WebUI saves; with others Pillow may start a further program."""
LONGEST_NAME = 100
"""Bytes of a file's name without its suffix."""
NAMED_BY = f"letters, digits, blanks and -_.,+=()[], by at most {LONGEST_NAME} bytes"
_NAME = re.compile(r"(?![. ])[\w\-.,+=()\[\] ]+(?<![. ])")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MOST = 1e15


def fits_a_file(name: str) -> bool:
    """Return True if every system takes a text as the name of a file, and not as a path."""
    try:
        short = 0 < len(name.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False
    return short and bool(_NAME.fullmatch(name)) and not _DEVICE.fullmatch(name)


def made(folder: Path) -> Path:
    """Make a folder if it is not there; AmdmError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AmdmError(f'"{folder}" cannot be made a folder ({cause(error)}); choose another --out.') from error
    return folder


def write_whole(file: Path, content: Any) -> None:
    """Write a file of JSON, whole or not at all."""
    # lone surrogates become JSON's escapes
    write_text(file, json.dumps(content, ensure_ascii=False, indent=1))


def write_text(file: Path, text: str) -> None:
    """Write a file of text, whole or not at all; lone surrogates become escapes."""
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(text.encode("utf-8", "backslashreplace"))
    put(unfinished, file)


def read_json(file: Path, wanted: str) -> Any:
    """Read a JSON file; AmdmError says what is `wanted` if it is not one."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AmdmError(f'"{file}" cannot be read as JSON ({cause(error)}); name {wanted}.') from error


def picture_in(source: Path | bytes) -> Image.Image:
    """Return the picture in a file or in its bytes, in RGB; ValueError if there is none, or too large a one."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=known) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"more than {MAX_PIXELS // 1_000_000} million pixels")
            return picture.convert("RGB")
    except Exception as error:  # Pillow's readers fail at a damaged file in ways of every kind
        raise ValueError(cause(error)) from error


def number(value: Any) -> float:
    """Return a number from 0 on; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        raise ValueError("not a number from 0 on")
    return value


def counts(value: Any) -> dict[str, int]:
    """Return evaluations by their models' names; ValueError for anything else."""
    if not isinstance(value, Mapping):
        raise ValueError("not numbers by name")
    return {str(name): int(number(count)) for name, count in value.items()}
