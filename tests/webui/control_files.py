"""Random models of ControlNet for the tests' checkpoints."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open

Tensors = dict[str, np.ndarray]
HINT = (3, 16, 16, 32, 32, 96, 96, 256)
"""The channels of the convolutions that a ControlNet has for its picture; the last one's are the UNet's."""


def control_net(checkpoint: Path) -> Tensors:
    """Return a ControlNet of a checkpoint's UNet of one level: its first half, and random convolutions beside it."""
    random = np.random.default_rng(1)
    tensors: Tensors = {}
    with safe_open(checkpoint, "np") as weights:
        for key in weights.keys():  # noqa: SIM118 -- this is no dictionary
            name = key.removeprefix("model.diffusion_model.")
            if name.startswith(("time_embed.", "input_blocks.", "middle_block.")):
                tensors[name] = weights.get_tensor(key).astype(np.float32)
    width = len(tensors["input_blocks.0.0.bias"])
    for index, (inputs, channels) in enumerate(pairwise((*HINT, width))):
        tensors |= convolution(random, f"input_hint_block.{2 * index}", channels, inputs, 3)
    blocks = {name.split(".")[1] for name in tensors if name.startswith("input_blocks.")}
    for block in (*(f"zero_convs.{index}" for index in range(len(blocks))), "middle_block_out"):
        tensors |= convolution(random, f"{block}.0", width, width, 1)
    return {f"control_model.{name}": tensor for name, tensor in tensors.items()}


def control_adapter(width: int) -> Tensors:
    """Return a T2I adapter for a UNet of this width."""
    random = np.random.default_rng(1)
    tensors = convolution(random, "conv_in", width, 3 * 64, 3)
    widths = [width * times for times in (1, 1, 1, 2, 2, 4, 4, 4, 4)]
    for index, (inputs, channels) in enumerate(pairwise(widths)):
        if inputs != channels:
            tensors |= convolution(random, f"body.{index}.in_conv", channels, inputs, 1)
        tensors |= convolution(random, f"body.{index}.block1", channels, channels, 3)
        tensors |= convolution(random, f"body.{index}.block2", channels, channels, 1)
    return tensors


def convolution(random: np.random.Generator, name: str, channels: int, inputs: int, size: int) -> Tensors:
    """Return the weight and the bias of a convolution."""
    weight = random.normal(0, (inputs * size * size) ** -0.5, (channels, inputs, size, size))
    return {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": np.zeros(channels, np.float32)}
