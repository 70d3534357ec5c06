"""Small approximate autoencoders of random weights, as files in the form of TAESD (madebyollin/taesd, taesd.py)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

WIDTH = 64
Layers = dict[int, int | tuple[int, int, bool]]
BLOCK, POOLED = -1, -2
"""Stand for a block: three convolutions with a way around them, and one with norms before it too."""
OF_FLUX2 = 32
"""The channels of the latents whose networks have such blocks."""


def _weights(layers: Layers, seed: int) -> dict[str, Tensor]:
    """The weights by name. layers: blocks, and convolutions as inputs, outputs and whether they have a bias."""
    rng = torch.Generator().manual_seed(seed)

    def convolution(name: str, inputs: int, outputs: int, biased: bool) -> dict[str, Tensor]:
        weight = torch.randn(outputs, inputs, 3, 3, generator=rng) / (9 * inputs) ** 0.5
        return {f"{name}.weight": weight, **({f"{name}.bias": torch.zeros(outputs)} if biased else {})}

    made: dict[str, Tensor] = {}
    for number, layer in layers.items():
        if isinstance(layer, tuple):
            made |= convolution(str(number), *layer)
        else:
            for part in (0, 2, 4):
                made |= convolution(f"{number}.conv.{part}", WIDTH, WIDTH, True)
            if layer == POOLED:
                wide = 4 * WIDTH
                for part, shape in {0: (wide, WIDTH, 1, 1), 3: (WIDTH, wide, 1, 1)}.items():
                    made[f"{number}.pool.{part}.weight"] = torch.randn(shape, generator=rng) / shape[1] ** 0.5
                made |= {f"{number}.pool.1.weight": torch.ones(wide), f"{number}.pool.1.bias": torch.zeros(wide)}
    return made


def write(folder: Path, name: str, channels: int = 4) -> list[Path]:
    """Write the encoder and the decoder of a family by its name there, such as "taesd"; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    inner, down = (WIDTH, WIDTH, False), (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)
    encoder: Layers = {0: (3, WIDTH, True), **dict.fromkeys(down, BLOCK), **dict.fromkeys((2, 6, 10), inner)}
    up = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
    decoder: Layers = {1: (channels, WIDTH, True), **dict.fromkeys(up, BLOCK), **dict.fromkeys((7, 12, 17), inner)}
    if channels == OF_FLUX2:
        encoder |= dict.fromkeys((11, 12, 13), POOLED)
        decoder |= dict.fromkeys((3, 4, 5), POOLED)
    parts: dict[str, Layers] = {
        "encoder": {**encoder, 14: (WIDTH, channels, True)},
        "decoder": {**decoder, 19: (WIDTH, 3, True)},
    }
    files = [folder / f"{name}_{part}.pth" for part in parts]
    for seed, (file, layers) in enumerate(zip(files, parts.values()), len(name)):
        # as files of 2023 are; the WebUIs refuse the form of newer versions of torch
        torch.save(_weights(layers, seed), file, _use_new_zipfile_serialization=False)
    return files
