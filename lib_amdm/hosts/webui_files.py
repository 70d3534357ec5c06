"""What the WebUIs have in common when a checkpoint's file is read."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

from modules import safe

UNPICKLED = (".ckpt", ".pt", ".pth", ".bin")


def refuse_code(filename: str) -> None:
    """Raise where a pickled file would run something while it is read.

    Some hosts unpickle whatever they are given; the WebUI's own restricted unpickler, which all of them have, does not.
    The host's check of whole files refuses what newer versions of torch write beside the pickle, so an archive's
    pickles are given to the unpickler here.
    """
    if Path(filename).suffix.lower() not in UNPICKLED:
        return
    if not zipfile.is_zipfile(filename):
        safe.check_pt(filename, safe.global_extra_handler)
        return
    with zipfile.ZipFile(filename) as archive:
        pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
        if not pickles:
            raise pickle.UnpicklingError("it is an archive without weights")
        for name in pickles:
            with archive.open(name) as file:
                unpickler = safe.RestrictedUnpickler(file)
                unpickler.extra_handler = safe.global_extra_handler
                unpickler.load()
