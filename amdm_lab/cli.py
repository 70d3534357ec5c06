"""The laboratory's commands. Each has its own --help."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from lib_amdm import command_line
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.settings import SettingsError


class Command(NamedTuple):
    """A command: its module, which is imported when it runs, and what it is for.

    The module has `add_arguments(parser)` and `run(options)`, and its docstring describes the command.
    """

    module: str
    summary: str


COMMANDS = {
    "demo": Command("demo.demo", "pictures of the bundled checkpoints, or a page in a browser"),
    "grids": Command("demo.grids", "what the settings do to one picture"),
    "recipes": Command("demo.recipes", "the recipes that the bundled checkpoints can draw"),
    "export": Command("export", "the bundled checkpoints into a WebUI's folder"),
    "pair": Command("pair.command", "two checkpoints of yours on your prompts, as one HTML page"),
    "coco-mig": Command("coco_mig.command", "the paper's Table 1: instances in the right place with the right colour"),
    "gpu": Command("gpu.command", "evaluations, memory and waiting on a machine with CUDA"),
    "shapes": Command("shapes.bench", "AMDM against other ways, on the bundled checkpoints"),
    "styles": Command("shapes.styles", "two models with the same skill in two styles"),
    "boxes": Command("shapes.boxes", "things in the boxes that an adapter is given"),
    "train": Command("training.train", "the training of the bundled checkpoints, adapters and judges"),
}


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code, 2 for a word that is not a command."""
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        return _list_commands(name)
    try:
        return run(name, arguments[1:])
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("lib_amdm", "amdm_lab")):
            raise
        print(
            f'This needs the Python package {error.name}; run "python install.py evaluate {name}", which installs what '
            "is needed into .venv.",
            file=sys.stderr,
        )
    except (AmdmError, AdapterError, SettingsError) as error:
        print(error, file=sys.stderr)
    return 1


def run(name: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code; AmdmError is left to the caller."""
    module = _module(name)
    options = parser_of(name, module).parse_args(arguments)
    return int(module.run(options) or 0)


def parser_of(name: str, module: Any = None) -> argparse.ArgumentParser:
    """Return a command's parser."""
    module = module or _module(name)
    typed = command_line.typed("amdm_lab")
    # install.py's own word for a command is already in what was typed
    prog = typed if typed.endswith(f" {name}") else f"{typed} {name}"
    parser = command_line.parser(prog, module.__doc__)
    module.add_arguments(parser)
    return parser


def _module(name: str) -> Any:
    return importlib.import_module(f".{COMMANDS[name].module}", __package__)


def _list_commands(name: str) -> int:
    helps = name in ("-h", "--help")
    lines = [] if helps or not name else [f'unknown command "{name}"; choose from {", ".join(COMMANDS)}.\n']
    lines += [f"usage: {command_line.typed('amdm_lab')} COMMAND ...\n\n{__doc__}\n"]
    lines += [f"  {name:10} {command.summary}" for name, command in COMMANDS.items()]
    print("\n".join(lines), file=sys.stdout if helps else sys.stderr)
    return 0 if helps else 2
