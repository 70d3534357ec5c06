"""Forge: the LoRAs of a slot's own prompt, with Forge's functions for reading and merging."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from backend.args import dynamic_args
from backend.patcher import lora
from backend.utils import load_torch_file

from ..common.patcher_lora import Keys, LoraFunctions, Patches


class ForgeLoras(LoraFunctions):
    """Forge's functions."""

    layers = lora

    def tensors_of(self, filename: str) -> Mapping[str, torch.Tensor]:
        return load_torch_file(filename, safe_load=True)

    def patches_of(self, weights: Mapping[str, torch.Tensor], keys: Keys) -> Patches:
        # the host says on the console what does not match; here it is an error where nothing does
        with redirect_stdout(StringIO()):
            return lora.load_lora(weights, keys)[0]

    def merged(self, patches: list[Any], weight: torch.Tensor, key: str) -> tuple[torch.Tensor, str]:
        said = StringIO()
        with redirect_stdout(said):
            merged = lora.merge_lora_to_weight(patches, weight, key, torch.float32)
        return merged, said.getvalue() if "MISMATCH" in said.getvalue() else ""

    def rounded(self, merged: torch.Tensor, dtype: torch.dtype, key: str, computing: torch.dtype) -> torch.Tensor:
        # with "(fp16 LoRA)" the host adds LoRAs to what is computed with, and leaves the weights in 8 bits alone
        return merged.to(computing if dtype.itemsize == 1 and dynamic_args["online_lora"] else dtype)
