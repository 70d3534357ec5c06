"""The commands' common parts: their parsers, consoles that lack letters, and files that another program has open."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .errors import AdapterError, AmdmError, cause

TYPED = "AMDM_TYPED"
"""The environment variable with the command line that install.py was called by."""


WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between attempts to replace a file that another program, such as a virus scanner, has open."""


def typed(module: str) -> str:
    """Return the command that was typed to run a module."""
    return os.environ.get(TYPED) or f"python -m {module}"


def parser(command: str, description: str | None, **further: Any) -> argparse.ArgumentParser:
    """Return a parser with a help that keeps the lines of its description and shows the default of every option."""
    return argparse.ArgumentParser(prog=command, description=description, formatter_class=_Help, **further)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with the defaults that are more than "off" or "none"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        said = action.help or ""
        silent = action.default in (None, False, "", [], argparse.SUPPRESS) or not action.option_strings
        return said if silent or "%(default)" in said else f"{said} (%(default)s)"


def run(main: Callable[[], int | None]) -> NoReturn:
    """End this process with a command's exit code; an error is one sentence and code 1.

    A letter that the console's code page lacks is written as an escape, so that it cannot end a long run.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except (AmdmError, AdapterError) as error:
        sys.exit(str(error))


def put(unfinished: Path, file: Path) -> None:
    """Replace a file by a new one, waiting if other programs have it open."""
    for seconds in WAITS:
        try:
            unfinished.replace(file)
            return
        except PermissionError:
            time.sleep(seconds)
    try:
        unfinished.replace(file)
    except PermissionError as error:
        raise AmdmError(
            f'"{file}" cannot be replaced ({cause(error)}); close the program that has it open, and run this again.'
        ) from error
