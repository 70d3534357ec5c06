"""The registry of adapter kinds, and reading a file as its kind.

A file's kind depends on the names and shapes of its tensors. The first kind that recognises them names, checks and
stores them; a new kind is a subclass of `Adapter` and one entry in `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import AdapterError
from ..files.container import Read, open_tensor_file
from .base import Adapter, AdapterFile, AdapterInfo, Room, Shapes, refused
from .gligen import Gligen
from .interactdiffusion import InteractDiffusion
from .ip_adapter import IPAdapter
from .migc import Migc

KINDS: tuple[type[Adapter], ...] = (IPAdapter, Gligen, InteractDiffusion, Migc)

_LORA = re.compile(
    r"^(lora|lycoris|oft)_|\.(lora_[AB]|lora_up|lora_down|hada_w|lokr_w|w_norm|diff)\b|_lora\.(up|down)\."
)
_PARALLEL = "module."
"""The prefix of every name in the file of a training run on several GPUs."""


def describe(path: str | Path) -> AdapterInfo:
    """Return the description of a file, without reading its tensors; AdapterError if it is not an adapter."""
    return identify(open_tensor_file(path).shapes, Path(path).name)


def read_adapter(path: str | Path, inert: bool = False) -> AdapterFile:
    """Return the adapter in a file. inert: accept a pickle with more than weights, and drop the rest.

    Raises AdapterError, one sentence naming the file, for a missing or damaged file, and for one that is not an adapter
    or of a kind that cannot be used.
    """
    file = open_tensor_file(path, inert)
    return _read(file.shapes, file.read, Path(path).name)


def adapter_file(tensors: Mapping[str, Tensor], name: str) -> AdapterFile:
    """Build the adapter from its tensors, named as in any file; error texts call it `name`."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return _read(shapes, lambda keys: {key: tensors[key] for key in keys}, name)


def adapter_of(file: AdapterFile) -> Adapter:
    """Return the adapter in the file's own dtype, on the CPU; `.to(...)` moves it to the UNet's."""
    return _kind(file)(file)


def room(info: AdapterInfo) -> Room:
    """Return how much of a layout a file takes."""
    return _kind(info).room(info.variant)


def takes_image(info: AdapterInfo) -> bool:
    """Return True for a file with a picture as input; all others take a layout."""
    return _kind(info).takes_image


def identify(shapes: Shapes, name: str) -> AdapterInfo:
    """Return the description of a file with tensors of these names and shapes.

    AdapterError, which calls the file `name`, if it is not an adapter.
    """
    if not shapes:
        raise refused(name, "holds no tensors; choose an adapter file")
    shapes = {key.removeprefix(_PARALLEL): shape for key, shape in shapes.items()}
    try:
        infos = (kind.recognise(shapes, name) for kind in KINDS)
        description = next((info for info in infos if info is not None), None)
    except IndexError as error:
        raise refused(name, "has tensors of a size that no adapter has; download it again") from error
    if description is None:
        raise _unknown(shapes, name)
    return description


def _kind(info: AdapterInfo) -> type[Adapter]:
    return next(kind for kind in KINDS if kind.kind == info.kind)


def _unknown(shapes: Shapes, name: str) -> AdapterError:
    if any(_LORA.search(key) for key in shapes):
        return refused(name, "is a LoRA; write it into the prompt as <lora:name:weight> instead")
    if "model.diffusion_model.input_blocks.0.0.weight" in shapes:
        return refused(name, "is a checkpoint; choose it as the checkpoint, and an adapter file as the adapter")
    *titles, last = (kind.title for kind in KINDS)
    return refused(name, f"is no adapter that AMDM knows; it takes {', '.join(titles)} and {last} files")


def _read(shapes: Shapes, read: Read, name: str) -> AdapterFile:
    info = identify(shapes, name)
    kind = _kind(info)
    in_file = {key.removeprefix(_PARALLEL): key for key in shapes}
    names = kind.rename(in_file)
    read_tensors = read(in_file[key] for key in names)
    tensors = {ours: kind.adjust(ours, read_tensors[in_file[key]]) for key, ours in names.items()}
    missing = sorted(set(kind.required(info.variant, tensors)) - set(tensors))
    if missing:
        raise refused(name, f"lacks {len(missing)} of its tensors (first {missing[0]}); download it again")
    return AdapterFile(**vars(info), tensors=tensors)
