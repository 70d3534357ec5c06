"""The commands of this package, each of which has its own --help:"""

from __future__ import annotations

import sys

from .command_line import run

COMMANDS = {
    "shapes.demo": "pictures of the bundled checkpoints, or a page in a browser",
    "shapes.demo.grids": "what the settings do to one picture",
    "shapes.export": "the bundled checkpoints into a WebUI's folder",
    "evaluate": "evidence on models of yours: two checkpoints, the paper's Table 1, a GPU",
    "adapters.convert": "an adapter's file as a small safetensors file",
    "shapes.benchmark": "AMDM against other ways, on the bundled checkpoints",
    "shapes.benchmark.styles": "two models with the same skill in two styles",
    "shapes.benchmark.boxes": "things in the boxes that an adapter is given",
    "shapes.training": "the training of the bundled checkpoints, adapters and judges",
}
"""The modules that are run, below this package, and what they are for."""


def main(arguments: list[str]) -> int:
    """List the commands; return the exit code, 2 for a word that is none of them."""
    asked = [word for word in arguments if word not in ("-h", "--help")]
    lines = [f"  python -m lib_amdm.{name:24} {summary}" for name, summary in COMMANDS.items()]
    if asked:
        lines.insert(0, f'"{asked[0]}" is no command of python -m lib_amdm; use one of these:')
    print("\n".join(lines if asked else [f"{__doc__}\n", *lines]), file=sys.stderr if asked else sys.stdout)
    return 2 if asked else 0


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
