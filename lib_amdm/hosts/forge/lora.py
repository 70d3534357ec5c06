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

WHOLE = (torch.float32, torch.float16, torch.bfloat16)


def _tensors_of(filename: str) -> Mapping[str, torch.Tensor]:
    return load_torch_file(filename, safe_load=True)


def _patches_of(weights: Mapping[str, torch.Tensor], keys: Keys) -> Patches:
    # the host logs layers that do not match; here it is an error if none does
    with redirect_stdout(StringIO()):
        return lora.load_lora(weights, keys)[0]


def _merged(patches: list[Any], weight: torch.Tensor, key: str) -> tuple[torch.Tensor, str]:
    said = StringIO()
    with redirect_stdout(said):
        # in float32 from the start, otherwise the host rounds the sum to the weight's dtype
        merged = lora.merge_lora_to_weight(patches, weight.to(torch.float32), key, torch.float32)
    return merged, said.getvalue() if "MISMATCH" in said.getvalue() else ""


def _rounded(merged: torch.Tensor, dtype: torch.dtype, key: str) -> torch.Tensor:
    return merged.to(dtype)


def _dtype_of(weight: torch.Tensor, model: Any, unet: Any) -> torch.dtype:
    # with "(fp16 LoRA)" the host adds LoRAs to the computed weights, and leaves those in low bits as they are
    if not dynamic_args.get("online_lora") or unet.storage_dtype in WHOLE:
        return weight.dtype
    computed: torch.dtype = getattr(model, "computation_dtype", torch.float32)
    return computed


FUNCTIONS = LoraFunctions(lora, _tensors_of, _patches_of, _merged, _rounded, _dtype_of)
