"""reForge: the LoRAs of a slot's own prompt, with reForge's functions for reading and merging."""

from __future__ import annotations

from typing import Any

import torch
from ldm_patched import float as low_bits
from ldm_patched.modules import lora
from ldm_patched.modules.lora_convert import convert_lora
from ldm_patched.modules.model_patcher import string_to_seed
from ldm_patched.modules.utils import load_torch_file

from ..common.patcher_lora import LoraFunctions, warnings_of_host


def _merged(patches: list[Any], weight: torch.Tensor, key: str) -> tuple[torch.Tensor, str]:
    with warnings_of_host("") as warnings:
        # it adds to its argument in place
        merged = lora.calculate_weight(patches, weight.to(torch.float32, copy=True), key)
    return merged, " ".join(warnings)


FUNCTIONS = LoraFunctions(
    lora,
    tensors_of=lambda filename: convert_lora(load_torch_file(filename, safe_load=True)),
    patches_of=lambda weights, keys: lora.load_lora(weights, keys, log_missing=False),
    merged=_merged,
    # stochastic rounding to 8 bits, seeded per layer so that it is reproducible
    rounded=lambda merged, dtype, key: low_bits.stochastic_rounding(merged, dtype, seed=string_to_seed(key)),
)
