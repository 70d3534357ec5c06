"""The lists of adapter files and of image encoders in a WebUI's folders, by name and never by path."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ..adapters import kinds
from ..adapters.clip_vision import has_vision
from ..errors import AdapterError
from ..files.container import SUFFIXES, open_tensor_file
from ..files.state import ByState

OWN_FOLDER = "amdm"
"""The folder under a WebUI's models that is AMDM's own: everything in it is listed."""
ADAPTER, ENCODER, OTHER = "adapter", "encoder", "other"

_CONTROL_NET = "control[-_ ]?net"
_HASH = re.compile(r" \[([0-9a-fA-F]+)\]$")
_FOR_ENCODERS = re.compile(r"clip[-_ ]?vision|image[-_ ]?encoder|controlnetpreprocessor", re.IGNORECASE)


class Folder(NamedTuple):
    """A folder to search. takes_all: every file in it counts, not only recognised ones."""

    path: Path
    takes_all: bool = False


def model_folders(models: Path, extensions: Iterable[Path] = ()) -> tuple[list[Folder], list[Folder]]:
    """Return the folders in which a WebUI has adapters, and those in which it has image encoders.

    models: its models folder.
    extensions: its extensions' folders.
    Adapters: models/amdm, and the folders in models, and the models folders of extensions, that are named for
        ControlNet or a kind of adapter.
    Encoders: models/amdm, models/clip_vision, models/ControlNetPreprocessor, and these extensions' downloads.
    """
    shared = re.compile("|".join([_CONTROL_NET, *(kind.folders for kind in kinds.KINDS)]), re.IGNORECASE)
    amdm_folder = Folder(models / OWN_FOLDER, takes_all=True)
    named = [path for path in _subfolders(models) if path != amdm_folder.path]
    adapters = [Folder(path) for path in named if shared.search(path.name)]
    encoders = [Folder(path) for path in named if _FOR_ENCODERS.search(path.name)]
    for extension in extensions:
        if shared.search(extension.name):
            adapters.append(Folder(extension / "models"))
            encoders.append(Folder(extension / "annotator" / "downloads" / "clip_vision"))
    return [amdm_folder, *adapters], [amdm_folder, *encoders]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _contents(path: Path) -> str:
    """Return ADAPTER, ENCODER or OTHER."""
    try:
        shapes = open_tensor_file(path, inert=True).shapes
        if has_vision(shapes):
            return ENCODER
        kinds.identify(shapes, path.name)
        return ADAPTER
    except AdapterError:
        return OTHER


class FileList:
    """Files by their names in some folders, which are read at the first use, and again by `refresh`.

    If two files have the same name, the first folder's counts. wanted(file, own): True for a file to list, own as in
    `Folder`.
    """

    def __init__(self, folders: Callable[[], Sequence[Folder]], wanted: Callable[[Path, bool], bool]) -> None:
        self._folders, self._wanted = folders, wanted
        self._files: dict[str, Path] | None = None

    def refresh(self) -> None:
        files: dict[str, Path] = {}
        for folder in self._folders():
            for file in files_in(folder.path, SUFFIXES):
                if self._wanted(file, folder.takes_all):
                    files.setdefault(readable(file.relative_to(folder.path).as_posix()), file)
        self._files = files

    @property
    def files(self) -> dict[str, Path]:
        if self._files is None:
            self.refresh()
        return self._files or {}

    def titles(self) -> list[str]:
        return list(self.files)

    def title(self, name: str) -> str | None:
        """Return the list's own entry for a name (`find_title`), or None."""
        return find_title(name, self.files)

    def path(self, name: str) -> Path | None:
        title = self.title(name)
        return None if title is None else self.files[title]


def lists(
    adapter_folders: Callable[[], Sequence[Folder]], encoder_folders: Callable[[], Sequence[Folder]]
) -> tuple[FileList, FileList]:
    """Return the list of adapters, and that of image encoders.

    In AMDM's own folder every file that is not an encoder is listed as an adapter: choosing an unusable one gives the
    reason.
    """
    contents = ByState(_contents)

    def is_adapter(file: Path, takes_all: bool) -> bool:
        return contents.of(file) in ((ADAPTER, OTHER) if takes_all else (ADAPTER,))

    def is_encoder(file: Path, takes_all: bool) -> bool:
        return contents.of(file) == ENCODER

    return FileList(adapter_folders, is_adapter), FileList(encoder_folders, is_encoder)


def files_in(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """Yield the files below a folder with one of these suffixes, in order; links to folders are followed."""
    paths: list[Path] = []
    for here, below, names in os.walk(folder, followlinks=True):
        # a link back up would never end
        below[:] = [name for name in below if not _leads_up(Path(here, name))]
        paths += [Path(here, name) for name in names if PurePath(name).suffix.lower() in suffixes]
    yield from sorted(file for file in paths if file.is_file())


def _leads_up(folder: Path) -> bool:
    """Return True if a folder is, through links, one of its own parents."""
    place = folder.resolve()
    return any(parent.resolve() == place for parent in folder.parents)


def readable(name: str) -> str:
    """Return a file's name as text that can be sent: bytes that are not UTF-8 become a replacement character."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", name)


def without_hash(title: str) -> str:
    """Return a title without the hash that a WebUI appends to a file's name once it has read the file."""
    return _HASH.sub("", title)


def without_folder(title: str) -> str:
    """Return a title without its folder; it may come from another system than this one."""
    return re.split(r"[/\\]", title)[-1]


def find_title(name: str, titles: Iterable[str]) -> str | None:
    """Return the title that a name means, the first if several match, or None.

    A name can be a title, with or without its suffix or folder; then the same with other capitals, backslashes,
    or accents in another encoding. Either may be followed by a hash that the other lacks: it only selects among several
    files with one name. Last, a name can be a title's hash.
    """
    titles = list(titles)
    wanted = name.strip()
    file, digest = without_hash(wanted), _hash_of(wanted)
    alike = [title for title in titles if digest and _hash_of(title) == digest]
    by_hash = (title for title in titles if _hash_of(title) == wanted.lower())
    by_name = _called(wanted, titles) or _called(file, alike) or _called(file, titles)
    return by_name or (next(by_hash, None) if wanted else None)


def _called(wanted: str, titles: Sequence[str]) -> str | None:
    """Return the first of the titles with a file of this name, if necessary in other letters."""
    forms: tuple[Callable[[str], str], ...] = (
        lambda title: title,
        without_hash,
        lambda title: without_hash(title).rpartition(".")[0],
        lambda title: without_folder(without_hash(title)),
        lambda title: PurePath(without_folder(without_hash(title))).stem,
    )
    for spelt in (str, _folded):
        for form in forms:
            match = next((title for title in titles if wanted and spelt(form(title)) == spelt(wanted)), None)
            if match is not None:
                return match
    return None


def _hash_of(title: str) -> str:
    """Return the hash after a title in small letters, or ""."""
    match = _HASH.search(title)
    return match[1].lower() if match else ""


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
