"""The laboratory's commands. Each has its own --help:"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lib_amdm import command_line
from lib_amdm.errors import AdapterError, AmdmError
from lib_amdm.settings import SettingsError


class Command(NamedTuple):
    """A command: the module that has its `main(arguments)`, imported when it runs, and what it is for."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("demo.demo", "pictures of the bundled checkpoints, or a page in a browser"),
    "grids": Command("demo.grids", "what the settings do to one picture"),
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
        helps = name in ("-h", "--help")
        refused = [] if helps or not name else [f'"{name}" is none of the commands: {", ".join(COMMANDS)}.\n']
        listed = [f"  {command:10} {each.summary}" for command, each in COMMANDS.items()]
        usage = f"usage: {command_line.typed('amdm_lab')} COMMAND ...\n\n{__doc__}\n"
        print("\n".join([*refused, usage, *listed]), file=sys.stdout if helps else sys.stderr)
        return 0 if helps else 2
    try:
        module = importlib.import_module(f".{COMMANDS[name].module}", __package__)
        return int(module.main(list(arguments[1:])) or 0)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("lib_amdm", "amdm_lab")):
            raise
        print(
            f'This needs the Python package {error.name}; run "python install.py evaluate {name}", which installs what '
            "is needed into .venv.",
            file=sys.stderr,
        )
        return 1
    except (AmdmError, AdapterError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1
