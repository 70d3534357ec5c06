"""Starts a WebUI behind the rehearsed card: `python launch.py SCRIPT ARGUMENTS`, from the WebUI's folder.

AMDM_CARD_MB is the size of its memory.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

# compiled functions are not seen by the rehearsal
os.environ["PYTORCH_JIT"] = "0"
os.environ["TORCHDYNAMO_DISABLE"] = "1"


def main() -> None:
    parent = str(Path(__file__).resolve().parents[1])
    sys.path[0] = parent
    import card

    sys.path[0] = str(Path.cwd())
    if os.environ.get("AMDM_CARD_MB"):
        card.SCRIPT.total = int(os.environ["AMDM_CARD_MB"]) << 20
    card.install()
    # its kernels would be given the CPU's addresses
    sys.modules["triton"] = None  # type: ignore[assignment]
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
