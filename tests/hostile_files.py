"""Files that try to run code where they are read as weights: they make a folder, in many a container."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Boom:
    """Makes a folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def evil(marker: Path) -> bytes:
    return pickle.dumps(Boom(marker), 2)


def archive(*entries: tuple[str, bytes], kind: int = zipfile.ZIP_STORED, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as packed:
        for name, content in (*entries, ("archive/version", b"3\n"), ("archive/byteorder", b"little")):
            packed.writestr(name, content)
        packed.comment = comment
    return file.getvalue()


def old_format(contents: bytes) -> bytes:
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in head) + contents + pickle.dumps([], 2)


def tar(name: str, *parts: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for each, content in ((name, b""), *parts):
            info = tarfile.TarInfo(each)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return file.getvalue()


PKL = "archive/data.pkl"
GOOD = pickle.dumps({}, 2)
HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "one": lambda evil: archive((PKL, evil)),
    "evil, good": lambda evil: archive((PKL, evil), (PKL, GOOD)),
    "good, evil": lambda evil: archive((PKL, GOOD), (PKL, evil)),
    "good, evil in capitals": lambda evil: archive((PKL, GOOD), ("archive/DATA.PKL", evil)),
    "evil in capitals, good elsewhere": lambda evil: archive(("archive/x/data.pkl", GOOD), ("archive/DATA.PKL", evil)),
    "capitals alone": lambda evil: archive(("archive/data.PKL", evil)),
    "another pickle": lambda evil: archive((PKL, GOOD), ("archive/more.pkl", evil)),
    "two folders": lambda evil: archive(("a/data.pkl", GOOD), (PKL, evil)),
    "an archive in the archive": lambda evil: archive((PKL, archive((PKL, evil)))),
    "an archive behind": lambda evil: archive((PKL, evil)) + archive((PKL, GOOD)),
    "an archive before": lambda evil: archive((PKL, GOOD)) + archive((PKL, evil)),
    "an archive in a comment": lambda evil: archive((PKL, evil), comment=archive((PKL, GOOD))),
    "a pickle": lambda evil: evil,
    "the old format": old_format,
    "the old format before an archive": lambda evil: old_format(evil) + archive((PKL, GOOD)),
    "a harmless pickle before": lambda evil: GOOD + old_format(evil),
    "the oldest format": lambda evil: tar("storages", ("storages", evil), ("tensors", evil), ("pickle", evil)),
    "the oldest format, as another": lambda evil: tar("}.", ("storages", evil), ("tensors", evil), ("pickle", evil)),
}
"""The ways to pack the pickle that runs code."""
