"""Evidence by command, on models of yours. Each command has its own --help:"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from .. import command_line
from ..errors import AdapterError, AmdmError
from ..settings import SettingsError

COMMANDS: dict[str, tuple[str, str]] = {
    "coco-mig": ("coco_mig.command", "the paper's Table 1: instances in the right place with the right colour"),
    "pair": ("pair.command", "two checkpoints of yours on your prompts, as one HTML page"),
    "gpu": ("gpu.command", "evaluations, memory and waiting on a machine with CUDA"),
}
"""The commands: the module with a `main(arguments)`, and what it is for. A module is imported when it is asked for."""


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code."""
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        helps = name in ("-h", "--help")
        refused = [] if helps or not name else [f'"{name}" is none of the commands: {", ".join(COMMANDS)}.\n']
        listed = [f"  {command:10} {summary}" for command, (_, summary) in COMMANDS.items()]
        usage = f"usage: {command_line.typed('lib_amdm.evaluate')} COMMAND ...\n\n{__doc__}\n"
        print("\n".join([*refused, usage, *listed]), file=sys.stdout if helps else sys.stderr)
        return 0 if helps else 2
    try:
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        return int(module.main(list(arguments[1:])))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lib_amdm"):
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


if __name__ == "__main__":
    command_line.run(lambda: main(sys.argv[1:]))
