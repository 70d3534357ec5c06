"""Reduce an adapter's file to the tensors that AMDM needs, as safetensors.

The full GLIGEN and InteractDiffusion files (`checkpoint_generation_text.pth`, `interact-diffusion-v1-2.pth`) are
pickles with a whole checkpoint and their trainer's settings, which no safe loader accepts. Here everything in them
except tensors becomes an inert placeholder: nothing in the file is run, and the trainer's libraries are not needed.

    python -m lib_amdm.adapters.convert checkpoint_generation_text.pth gligen-text-box.safetensors [--half]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from .. import command_line
from ..errors import AdapterError
from .base import AdapterFile
from .kinds import read_adapter


def convert(source: str | Path, target: str | Path, half: bool = False) -> AdapterFile:
    """Write the adapter in `source` to `target` (.safetensors); AdapterError if there is none. half: as float16."""
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
    parser = command_line.parser(command_line.typed("lib_amdm.adapters.convert"), __doc__.split("\n\n")[0])
    parser.add_argument("source", help="the adapter's file, of any kind")
    parser.add_argument("target", help="the .safetensors file to write")
    parser.add_argument("--half", action="store_true", help="as float16, half the size")
    options = parser.parse_args(arguments)
    try:
        file = convert(options.source, options.target, options.half)
    except AdapterError as error:
        print(error, file=sys.stderr)
        return 1
    kind = " ".join(filter(None, (file.kind, file.variant)))
    size = Path(options.target).stat().st_size / 2**20
    print(f"{options.target}: {kind}, {len(file.tensors)} tensors, {size:.0f} MiB")
    return 0


if __name__ == "__main__":
    command_line.run(main)
