"""Weights in low bits, as Forge and Forge Neo keep those of quantized files."""

from __future__ import annotations

import torch

PACKED = ("gguf_cls", "bnb_quantized", "_qdata")
"""Attributes of weights in low bits with separate scales."""


def is_packed(weight: torch.Tensor) -> bool:
    """Return True for a weight whose numbers mean nothing without their scales."""
    return not weight.is_floating_point() or any(hasattr(weight, mark) for mark in PACKED)
