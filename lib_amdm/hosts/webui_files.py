"""What the WebUIs have in common when a checkpoint's file is read."""

from __future__ import annotations

from pathlib import Path

from modules import safe

UNPICKLED = (".ckpt", ".pt", ".pth", ".bin")


def refuse_code(filename: str) -> None:
    """Raise where a pickled file would run something while it is read.

    Some hosts unpickle whatever they are given; the WebUI's own restricted unpickler, which all of them have, does not.
    """
    if Path(filename).suffix.lower() in UNPICKLED:
        safe.check_pt(filename, safe.global_extra_handler)
