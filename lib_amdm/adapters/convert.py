"""Trim an adapter's file to what AMDM needs of it, as safetensors.

The full GLIGEN and InteractDiffusion files (`checkpoint_generation_text.pth`, `interact-diffusion-v1-2.pth`) are
pickles that hold a whole checkpoint and their trainer's settings, which no safe loader takes. Here everything in them
but tensors becomes an inert placeholder: nothing of the file is run, and none of the trainer's libraries is needed.

    python -m lib_amdm.adapters.convert checkpoint_generation_text.pth gligen-text-box.safetensors [--half]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ..errors import AdapterError
from .files import AdapterFile, read_adapter


def convert(source: str | Path, target: str | Path, half: bool = False) -> AdapterFile:
    """Write the adapter in `source` to `target` (.safetensors); AdapterError where there is none. half: as float16."""
    source, target = Path(source), Path(target)
    if target.suffix.lower() != ".safetensors":
        raise AdapterError(f'"{target.name}" must end in .safetensors.')
    if target.exists():
        raise AdapterError(f'"{target.name}" is already there; remove it, or choose another name.')
    if not target.parent.is_dir():
        raise AdapterError(f'"{target.parent}" is not a folder; make it, or choose another for "{target.name}".')
    file = read_adapter(source, inert=True)
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
