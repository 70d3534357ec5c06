"""Inspect torch's pickled files before anything in them is unpickled: nothing that they name is called.

A pickle can call any function while it is read, and torch reads pickles from more than one kind of container.
This module inspects what torch's own reader finds, and refuses a file in which another reader could find other
things.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, NamedTuple

import torch

from ..errors import one_sentence

_PACKED = b"PK\x03\x04"
_OLD_FORMAT = 0x1950A86A20F9469CFC6C
"""The number at the beginning of torch's format before 1.6 (torch/serialization.py, MAGIC_NUMBER)."""
_RECORD = re.compile(
    r"data\.pkl|data/\d+|version|byteorder|\.data/serialization_id|\.format_version|\.storage_alignment"
)
"""The entries of an archive that torch.save writes, below its one folder."""
_PROGRAM = re.compile(r"constants\.pkl|code/")
"""Entries of a TorchScript archive; torch runs its code while reading it."""
_ITEM_SIZES = {
    **dict.fromkeys(("Double", "Long", "ComplexFloat"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    "ComplexDouble": 16,
}
_HARMLESS = {
    "_codecs": {"encode"},
    "builtins": {"set", "dict", "list"},
    "__builtin__": {"set", "dict", "list"},
    "collections": {"OrderedDict"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "pytorch_lightning.callbacks.model_checkpoint": {"ModelCheckpoint"},
    "torch": {"Size", "device"},
    "torch._utils": {
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
        "_rebuild_parameter",
        "_rebuild_parameter_with_state",
        "_rebuild_device_tensor_from_numpy",
    },
    "torch.nn.modules.container": {"ParameterDict"},
    "torch.serialization": {"_get_layout"},
}
"""The names in files of weights, besides storages and dtypes, and names that only make containers when called."""
_KEEPING = ("PUT", "BINPUT", "LONG_BINPUT")
"""The opcodes that give the memo number of an object explicitly."""
GET_SAFETENSORS = "get it as a .safetensors file"


class Refused(pickle.UnpicklingError):
    """A file that must not be read, or cannot be. what: a description of it. remedy: what to do instead.

    convertible: the converter for adapters can read it, and keeps only the tensors.
    """

    def __init__(self, what: str, remedy: str = GET_SAFETENSORS, convertible: bool = False) -> None:
        self.what, self.remedy, self.convertible = one_sentence(what), remedy, convertible
        super().__init__(f"it {self.what}")


@dataclass(frozen=True)
class Outline:
    """A tensor's place in a pickle: its shape without its numbers."""

    shape: tuple[int, ...]


class Contents(NamedTuple):
    """The contents of a pickled file.

    value: what it unpickles to, with an `Outline` for each tensor and a `Placeholder` for anything else except a
    dictionary. foreign: the names of its imports that files of weights do not have.
    """

    value: Any
    foreign: tuple[str, ...]


class Placeholder:
    """A stand-in for anything in a file that is not a tensor: it accepts every operation, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> Placeholder:
        return Placeholder()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    add = append


def is_packed(path: str | Path) -> bool:
    """Return True if torch reads the file as a zip archive: it checks the first bytes, other readers the last."""
    with Path(path).open("rb") as file:
        return file.read(len(_PACKED)) == _PACKED


def inspect_pickle(path: str | Path) -> Contents:
    """Return the contents of a pickled file, without calling anything that it names and without its tensors' numbers.

    Refused if it is not packed as torch.save packs files, or declares more data than it contains.
    """
    path = Path(path)
    room = path.stat().st_size
    try:
        with path.open("rb") as file:
            if is_packed(path):
                archive = torch._C.PyTorchFileReader(file)
                _check_archive(path, archive.get_all_records(), room)
                reader = _Outliner(io.BytesIO(archive.get_record("data.pkl")), room)
                return Contents(reader.read(), tuple(sorted(reader.foreign)))
            return _inspect_old_format(file, room)
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"is damaged ({type(error).__name__})", "download it again") from error


def inspect_weights(path: str | Path) -> Contents:
    """Inspect a file of weights; Refused also if it imports anything that such files do not need."""
    contents = inspect_pickle(path)
    if contents.foreign:
        raise Refused(f"holds more than weights ({contents.foreign[0][:80]})", convertible=True)
    return contents


def load(path: str | Path) -> Any:
    """Load a file of nothing but weights as torch.load does; Refused for any other."""
    inspect_weights(path)
    try:
        # not torch.load: a WebUI replaces it by its own check, which supports only older files
        return torch.serialization.load(path, map_location="cpu", weights_only=True, mmap=is_packed(path) or None)
    except pickle.UnpicklingError as error:
        raise Refused("is packed in a way that torch's safe loader refuses", convertible=True) from error


def load_inert(path: str | Path) -> Any:
    """Load a file as torch.load does, with placeholders for everything except tensors and dictionaries."""
    inspect_pickle(path)
    inert = ModuleType("inert_pickle")
    inert.__dict__.update({name: getattr(pickle, name) for name in pickle.__all__})
    vars(inert).update(Unpickler=_Inert, load=lambda file, **kind: _Inert(file, **kind).load())
    return torch.serialization.load(path, map_location="cpu", weights_only=False, pickle_module=inert)


def _check_archive(path: Path, records: Sequence[str], room: int) -> None:
    """Refuse an archive that other readers could parse differently from torch, or that unpacks to more than its size.

    records: the entries that torch finds, below the archive's one folder.
    """
    with zipfile.ZipFile(path) as archive:
        entries, comment = archive.infolist(), archive.comment
    if any(_PROGRAM.match(name) for name in records):
        raise Refused("is a TorchScript program and not a file of weights")
    folder = entries[0].filename.partition("/")[0]
    agree = sorted(entry.filename for entry in entries) == sorted(f"{folder}/{name}" for name in records)
    once = len({name.lower() for name in records}) == len(records)
    if not agree or not once or comment or min(entry.header_offset for entry in entries) > 0:
        raise Refused("is not packed as torch packs files")
    bad = next((name for name in records if not _RECORD.fullmatch(name)), None)
    if bad is not None:
        raise Refused(f'has "{bad[:60]}" in it, which torch does not pack')
    if sum(entry.file_size for entry in entries) > room:
        raise Refused("would unpack to more than its own size")


def _inspect_old_format(file: BinaryIO, room: int) -> Contents:
    """Return the contents of a file in torch's format before 1.6: five pickles in a row, followed by the numbers."""
    try:
        # torch prefers its oldest format if the file can be read as such, whatever it begins with
        tarfile.open(fileobj=file, mode="r:").close()
    except tarfile.TarError:
        file.seek(0)
    else:
        raise Refused("is a tar archive")
    readers = [_Outliner(file, room) for _ in range(5)]
    if readers[0].read() != _OLD_FORMAT:
        raise Refused("is no file of weights that torch has written")
    value = [reader.read() for reader in readers[1:]][2]
    return Contents(value, tuple(sorted({name for reader in readers for name in reader.foreign})))


@dataclass(frozen=True)
class _Storage:
    numel: int


class _Outliner(pickle.Unpickler):
    """An unpickler with stand-ins for everything that the file names. room: the bytes that its storages can have."""

    def __init__(self, file: BinaryIO, room: int) -> None:
        super().__init__(file)
        self.file, self.room = file, room
        self.foreign: set[str] = set()
        self.sizes: dict[str, int] = {}

    def read(self) -> Any:
        """Return the contents of the pickle at the file's position, and leave the position after it.

        Refused if it stores an object under a number far beyond those before: Python allocates all numbers between.
        """
        begin = self.file.tell()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.file)):
            if opcode.name in _KEEPING and int(argument or 0) > count:
                raise Refused("declares more memory than its contents need")
        end = self.file.tell()
        self.file.seek(begin)
        value = self.load()
        self.file.seek(end)
        return value

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in _REBUILT:
            return _REBUILT[name]
        if (module, name) == ("torch", "Size"):
            return tuple
        if _is_storage(module, name):
            return type(name, (Placeholder,), {})
        if name not in _HARMLESS.get(module, ()) and not _is_dtype(module, name):
            self.foreign.add(f"{module}.{name}")
        return _PLAIN.get((module, name), Placeholder)

    def persistent_load(self, pid: Any) -> Any:
        kind, storage, key, _, numel = pid[:5]
        if kind != "storage" or not isinstance(numel, int):
            raise Refused("holds more than weights (a module)")
        item = _ITEM_SIZES.get(storage.__name__.removesuffix("Storage"), 1)
        self.sizes[str(key)] = numel * item
        if numel < 0 or sum(self.sizes.values()) > self.room:
            raise Refused("declares larger tensors than the file contains")
        return _Storage(numel)


class _Inert(pickle.Unpickler):
    """An unpickler of tensors, with placeholders for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TENSORS or _is_storage(module, name) or _is_dtype(module, name):
            return super().find_class(module, name)
        return _PLAIN.get((module, name), Placeholder)


_TENSORS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
"""The names that a tensor is made of in a pickle; torch itself reads their storages."""
_PLAIN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, dict, list)},
}


def _is_storage(module: str, name: str) -> bool:
    return module in ("torch", "torch.storage") and name.endswith("Storage")


def _is_dtype(module: str, name: str) -> bool:
    return module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Outline:
    last = offset + sum((length - 1) * step for length, step in zip(size, stride)) if math.prod(size) else 0
    if min(*size, *stride, offset, 0) < 0 or max(last + 1, math.prod(size)) > max(storage.numel, 1):
        raise Refused("declares larger tensors than the file contains")
    return Outline(tuple(size))


def _parameter(data: Any, *_: Any) -> Any:
    return data


_REBUILT: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": _tensor,
    "_rebuild_tensor_v2": _tensor,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
}
