"""Files of tensors, opened by their contents, not by their names. Nothing in them is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors
from torch import Tensor

from ..errors import FileError, cause
from .pickles import Outline, Refused, inspect_pickle, inspect_weights, load, load_inert

NEVER_UNPICKLED = (".safetensors", ".gguf")
"""Suffixes that make every reader treat a file as no pickle, whatever its contents."""
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
CONVERTER = "python -m lib_amdm.adapters.convert"
_MOST_LEVELS = 32
"""The deepest nesting of dictionaries; a file may contain one that contains itself."""

Read = Callable[[Iterable[str]], dict[str, Tensor]]
"""read(names): the tensors of these names, as copies: a file's own may be windows into it."""


T = TypeVar("T")


class File(NamedTuple):
    """The tensors of a file by its own flat names: their shapes, and a way to read some."""

    shapes: dict[str, tuple[int, ...]]
    read: Read


def open_tensor_file(path: str | Path, inert: bool = False) -> File:
    """Open a file of tensors; FileError if that is impossible.

    Its shapes are known without reading its tensors. inert: accept a pickle with more than weights, and drop the rest.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f'"{path.name}" is not there; choose another file.')
    with _as_file_error(path.name):
        file = open_tensors(path, inert)

    def read(keys: Iterable[str]) -> dict[str, Tensor]:
        with _as_file_error(path.name):
            return file.read(keys)

    return File(file.shapes, read)


@contextmanager
def _as_file_error(name: str) -> Iterator[None]:
    """Turn a reader's error into a sentence that names the file."""
    try:
        yield
    except Refused as error:
        remedy = f"make a .safetensors file of it with `{CONVERTER}`" if error.convertible else error.remedy
        raise FileError(f'"{name}" {error.what}; {remedy}.') from error
    except Exception as error:
        raise FileError(f'"{name}" cannot be read ({cause(error)}); download it again.') from error


def open_tensors(path: Path, inert: bool = False) -> File:
    """Open a file, with the readers' own exceptions: Refused for a pickle that must not be read."""
    if is_safetensors(path) or path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    contents = inspect_pickle(path) if inert else inspect_weights(path)
    outlines = flat(contents.value, Outline)

    def read(keys: Iterable[str]) -> dict[str, Tensor]:
        tensors = flat(load_inert(path) if inert else load(path), Tensor)
        return {key: tensors[key].clone() for key in keys}

    return File({key: outline.shape for key, outline in outlines.items()}, read)


def is_safetensors(path: str | Path) -> bool:
    """Return True if the file begins like safetensors: the length of a header that fits into it, and the header."""
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def refuse_code(path: str | Path) -> None:
    """Raise Refused if a reader that unpickles everything would run something, or could be made to.

    For readers that depend on the file's suffix, and unpickle nothing that is named safetensors or GGUF.
    """
    suffix = Path(path).suffix.lower()
    if suffix in NEVER_UNPICKLED:
        return
    if is_safetensors(path):
        if suffix != ".sft":
            raise Refused("is a safetensors file by another name", "let its name end in .safetensors")
        return
    inspect_weights(path)


def _safetensors(path: Path) -> File:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise Refused("has a name that is no UTF-8, which safetensors cannot open", "rename it") from error
    with safetensors.safe_open(path, "pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118

    def read(keys: Iterable[str]) -> dict[str, Tensor]:
        with safetensors.safe_open(path, "pt") as file:
            return {key: file.get_tensor(key).clone() for key in keys}

    return File(shapes, read)


def in_memory(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return copies of a reader's tensors, which may be views of the file.

    On Windows nobody can write to a file while such a view exists.
    """
    windows = {key: value for key, value in tensors.items() if isinstance(value, Tensor) and value.device.type == "cpu"}
    return {**tensors, **{key: value.clone() for key, value in windows.items()}}


def flat(value: Any, kind: type[T], levels: int = _MOST_LEVELS) -> dict[str, T]:
    """Return all values of a type in a pickle's value by dotted names, from the dictionaries that wrap them.

    Refused for dictionaries nested more than `levels` deep.
    """
    if not isinstance(value, Mapping):
        return {}
    if levels == 0:
        raise Refused("has dictionaries without an end in it")
    if isinstance(value.get("state_dict"), Mapping):
        return flat(value["state_dict"], kind, levels - 1)
    if isinstance(value.get("model"), Mapping) and ("autoencoder" in value or "config_dict" in value):
        return flat(value["model"], kind, levels - 1)
    values: dict[str, T] = {}
    for key, inner in value.items():
        if isinstance(inner, kind):
            values[str(key)] = inner
        elif isinstance(inner, Mapping):
            values.update({f"{key}.{name}": leaf for name, leaf in flat(inner, kind, levels - 1).items()})
    return values
