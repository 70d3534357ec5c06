"""Trim an adapter's file to what AMDM needs of it, as safetensors.

The full GLIGEN and InteractDiffusion files (`checkpoint_generation_text.pth`, `interact-diffusion-v1-2.pth`) are
pickles that hold a whole checkpoint and their trainer's settings, which no safe loader takes. Here everything in them
but tensors becomes an inert placeholder: nothing of the file is run, and none of the trainer's libraries is needed.

    python -m lib_amdm.adapters.convert checkpoint_generation_text.pth gligen-text-box.safetensors [--half]
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file

from .errors import AdapterError
from .files import AdapterFile, read_adapter

_TENSORS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
"""What tensors are made of in a pickle; torch itself reads their storages."""
_PLAIN = {"collections": {"OrderedDict": OrderedDict}, "builtins": {"set": set, "dict": dict, "list": list}}


class Placeholder:
    """What stands for anything in a file that is no tensor: it takes whatever is done to it, and does nothing."""

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


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TENSORS or (module in ("torch", "torch.storage") and name.endswith("Storage")):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _PLAIN.get(module, {}).get(name, Placeholder)


def load_inert(path: str) -> Any:
    """What a torch pickle holds, with placeholders for all that is no tensor and no dictionary."""
    inert = ModuleType("inert_pickle")
    inert.__dict__.update({name: getattr(pickle, name) for name in pickle.__all__})
    inert.Unpickler, inert.load = _Unpickler, lambda file, **kind: _Unpickler(file, **kind).load()
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)


def convert(source: str | Path, target: str | Path, half: bool = False) -> AdapterFile:
    """Write the adapter in `source` to `target` (.safetensors); AdapterError where there is none. half: as float16."""
    source, target = Path(source), Path(target)
    if target.suffix != ".safetensors":
        raise AdapterError(f'"{target.name}" must end in .safetensors.')
    if target.exists():
        raise AdapterError(f'"{target.name}" is already there; remove it, or choose another name.')
    file = read_adapter(source, load_inert)
    tensors = {
        name: tensor.to(torch.float16 if half else tensor.dtype, copy=True).contiguous()
        for name, tensor in file.tensors.items()
    }
    save_file(tensors, target, {"format": "pt", "kind": file.kind, "source": source.name})
    return file


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lib_amdm.adapters.convert", description=__doc__.split("\n\n")[0])
    parser.add_argument("source", help="the adapter's file, of any kind")
    parser.add_argument("target", help="the .safetensors file to write")
    parser.add_argument("--half", action="store_true", help="as float16, half the size")
    told = parser.parse_args(arguments)
    try:
        file = convert(told.source, told.target, told.half)
    except AdapterError as error:
        print(error, file=sys.stderr)
        return 1
    what = " ".join(filter(None, (file.kind, file.variant)))
    print(f"{told.target}: {what}, {len(file.tensors)} tensors, {Path(told.target).stat().st_size / 2**20:.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
