"""The lists of adapter files and of image encoders: what lies in a WebUI's folders, by name and never by path."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
OWN_FOLDER = "amdm"
"""The folder under a WebUI's models that is AMDM's own: everything in it is listed."""

_ADAPTER = re.compile(r"ip[-_ ]?adapter|gligen|interact|migc", re.IGNORECASE)
_ENCODER = re.compile(r"clip[-_ ]?(vit|vision|h|g|l)\b|image[-_ ]?encoder|\bclip_[hgl]\b", re.IGNORECASE)
_SHARED_WITH_OTHERS = re.compile(r"control[-_ ]?net|ip[-_ ]?adapter|gligen|interact|migc", re.IGNORECASE)
_FOR_ENCODERS = re.compile(r"clip[-_ ]?vision|image[-_ ]?encoder|controlnetpreprocessor", re.IGNORECASE)


@dataclass(frozen=True)
class Folder:
    """A folder to look in. own: everything in it counts, and not only what has an adapter's name."""

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


class FileList:
    """Files by their names in some folders, which are looked through when first asked, and again by `refresh`.

    Of two files with one name the first folder's counts.
    """

    def __init__(self, folders: Callable[[], Sequence[Folder]], wanted: Callable[[str, bool], bool]) -> None:
        self._folders, self._wanted = folders, wanted
        self._files: dict[str, Path] | None = None

    def refresh(self) -> None:
        found: dict[str, Path] = {}
        for folder in self._folders():
            for file in _files(folder.path):
                name = file.relative_to(folder.path).as_posix()
                if self._wanted(name, folder.own):
                    found.setdefault(name, file)
        self._files = found

    @property
    def files(self) -> dict[str, Path]:
        if self._files is None:
            self.refresh()
        return self._files or {}

    def titles(self) -> list[str]:
        return list(self.files)

    def title(self, name: str) -> str | None:
        """The list's own entry for a title, with or without its suffix and folder."""
        wanted = name.strip()
        forms: tuple[Callable[[str], str], ...] = (
            lambda title: title,
            lambda title: title.rpartition(".")[0],
            lambda title: PurePath(title).name,
            lambda title: PurePath(title).stem,
        )
        return next((title for form in forms for title in self.files if form(title) == wanted), None)

    def path(self, name: str) -> Path | None:
        title = self.title(name)
        return None if title is None else self.files[title]


def adapter_list(folders: Callable[[], Sequence[Folder]]) -> FileList:
    """Files that can be adapters. What they really are is told by their keys when they are used."""
    return FileList(folders, lambda name, own: not _ENCODER.search(name) and (own or bool(_ADAPTER.search(name))))


def encoder_list(folders: Callable[[], Sequence[Folder]]) -> FileList:
    """Files that can be image encoders."""
    return FileList(folders, lambda name, own: bool(_ENCODER.search(name)) or not (own or _ADAPTER.search(name)))


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
