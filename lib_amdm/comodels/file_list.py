"""The lists of adapter files and of image encoders: what lies in a WebUI's folders, by name and never by path."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from ..adapters.clip_vision import has_vision
from ..adapters.container import SUFFIXES, opened
from ..adapters.files import told_apart
from ..errors import AdapterError
from .cache import FileState

OWN_FOLDER = "amdm"
"""The folder under a WebUI's models that is AMDM's own: everything in it is listed."""
ADAPTER, ENCODER, OTHER = "adapter", "encoder", "other"

_SHARED_WITH_OTHERS = re.compile(r"control[-_ ]?net|ip[-_ ]?adapter|gligen|interact|migc", re.IGNORECASE)
_FOR_ENCODERS = re.compile(r"clip[-_ ]?vision|image[-_ ]?encoder|controlnetpreprocessor", re.IGNORECASE)


@dataclass(frozen=True)
class Folder:
    """A folder to look in. own: everything in it counts, and not only what is seen to be an adapter."""

    path: Path
    own: bool = False


def model_folders(models: Path, extensions: Iterable[Path] = ()) -> tuple[list[Folder], list[Folder]]:
    """Where a WebUI with these folders has adapters, and where it has image encoders.

    Adapters: models/amdm, and whatever of models is named for ControlNet or one of the adapters; the models folders of
    the ControlNet and InteractDiffusion extensions. Encoders: models/amdm, models/clip_vision, models/
    ControlNetPreprocessor, and the ControlNet extension's downloads.
    """
    own = Folder(models / OWN_FOLDER, own=True)
    named = [path for path in _subfolders(models) if path != own.path]
    adapters = [Folder(path) for path in named if _SHARED_WITH_OTHERS.search(path.name)]
    encoders = [Folder(path) for path in named if _FOR_ENCODERS.search(path.name)]
    for extension in extensions:
        if _SHARED_WITH_OTHERS.search(extension.name):
            adapters.append(Folder(extension / "models"))
            encoders.append(Folder(extension / "annotator" / "downloads" / "clip_vision"))
    return [own, *adapters], [own, *encoders]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


class Kinds:
    """What files are by their contents, looked at once for each file and time it was written."""

    def __init__(self) -> None:
        self._known: dict[FileState, str] = {}

    def of(self, path: Path) -> str:
        """ADAPTER, ENCODER or OTHER."""
        try:
            state = FileState.of(str(path))
        except OSError:
            # it has gone since its folder was read
            return OTHER
        if state not in self._known:
            self._known[state] = _kind(path)
        return self._known[state]


def _kind(path: Path) -> str:
    try:
        shapes = opened(path, inert=True).shapes
        if has_vision(shapes):
            return ENCODER
        told_apart(shapes, path.name)
        return ADAPTER
    except AdapterError:
        return OTHER


class FileList:
    """Files by their names in some folders, which are looked through when first asked, and again by `refresh`.

    Of two files with one name the first folder's counts.
    """

    def __init__(self, folders: Callable[[], Sequence[Folder]], wanted: Callable[[Path, bool], bool]) -> None:
        self._folders, self._wanted = folders, wanted
        self._files: dict[str, Path] | None = None

    def refresh(self) -> None:
        found: dict[str, Path] = {}
        for folder in self._folders():
            for file in files_in(folder.path, SUFFIXES):
                if self._wanted(file, folder.own):
                    found.setdefault(readable(file.relative_to(folder.path).as_posix()), file)
        self._files = found

    @property
    def files(self) -> dict[str, Path]:
        if self._files is None:
            self.refresh()
        return self._files or {}

    def titles(self) -> list[str]:
        return list(self.files)

    def title(self, name: str) -> str | None:
        """The list's own entry for a name (`find_title`)."""
        return find_title(name, self.files)

    def path(self, name: str) -> Path | None:
        title = self.title(name)
        return None if title is None else self.files[title]


def lists(
    adapter_folders: Callable[[], Sequence[Folder]], encoder_folders: Callable[[], Sequence[Folder]]
) -> tuple[FileList, FileList]:
    """The adapters, and the image encoders. In AMDM's own folder whatever is no encoder is listed as an adapter, so
    that one that cannot be used is told why."""
    kinds = Kinds()
    adapters = FileList(adapter_folders, lambda file, own: kinds.of(file) in ((ADAPTER, OTHER) if own else (ADAPTER,)))
    return adapters, FileList(encoder_folders, lambda file, own: kinds.of(file) == ENCODER)


def files_in(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    """The files below a folder with one of these suffixes, in order; folders that are links are looked through too."""
    found = []
    for here, below, names in os.walk(folder, followlinks=True):
        # a link that leads back up would never end
        below[:] = [name for name in below if not _leads_up(Path(here, name))]
        found += [Path(here, name) for name in names if PurePath(name).suffix.lower() in suffixes]
    yield from sorted(file for file in found if file.is_file())


def _leads_up(folder: Path) -> bool:
    """Whether a folder is one of those that it lies in, by way of links."""
    place = folder.resolve()
    return any(parent.resolve() == place for parent in folder.parents)


def readable(name: str) -> str:
    """A file's name as text that can be sent: bytes that are no UTF-8 are shown by a replacement character."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", name)


def find_title(name: str, titles: Iterable[str]) -> str | None:
    """The title that a name means: itself, with a hash behind it, without its suffix or folder; then the same in other
    letters: capitals, backslashes, accents in another encoding. The first where several fit."""
    titles = list(titles)
    wanted = name.strip()
    wanted = wanted if wanted in titles else re.sub(r" \[[0-9a-fA-F]+\]$", "", wanted)
    forms: tuple[Callable[[str], str], ...] = (
        lambda title: title,
        lambda title: title.rpartition(".")[0],
        lambda title: PurePath(title).name,
        lambda title: PurePath(title).stem,
    )
    for spelt in (str, _folded):
        for form in forms:
            found = next((title for title in titles if wanted and spelt(form(title)) == spelt(wanted)), None)
            if found is not None:
                return found
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/")).casefold()
