"""Forge Neo: the LoRAs of a slot's own prompt, with Forge Neo's functions for reading and merging."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from backend.float import stochastic_rounding
from backend.patcher import lora
from backend.state_dict import state_dict_prefix_replace
from backend.utils import load_torch_file

from ..common.patcher_lora import Keys, LoraFunctions, Patches, warnings_of_host

OTHER_NAMES = {
    "lora_unet__": "lora_unet_",
    # trained as a part of Anima's network, but in the host a part of its text encoder
    "diffusion_model.llm_adapter.": "text_encoders.qwen3_06b.llm_adapter.",
    "lora_unet_llm_adapter_": "lora_te_llm_adapter_",
}
"""Prefixes of some layers' names in files, and in the host's lists."""


def _tensors_of(filename: str) -> Mapping[str, torch.Tensor]:
    return state_dict_prefix_replace(load_torch_file(filename, safe_load=True), OTHER_NAMES)


def _patches_of(weights: Mapping[str, torch.Tensor], keys: Keys) -> Patches:
    return lora.load_lora(weights, keys)[0]


def _merged(patches: list[Any], weight: torch.Tensor, key: str) -> tuple[torch.Tensor, str]:
    with warnings_of_host(lora.logger.name, "") as warnings:
        # it adds to its argument in place
        merged = lora.merge_lora_to_weight(patches, weight.to(torch.float32, copy=True), key, torch.float32)
    return merged, " ".join(warnings)


def _rounded(merged: torch.Tensor, dtype: torch.dtype, key: str) -> torch.Tensor:
    # stochastic rounding to 8 bits, seeded per layer so that it is reproducible
    return stochastic_rounding(merged, dtype, seed=lora.string_to_seed(key))


FUNCTIONS = LoraFunctions(lora, _tensors_of, _patches_of, _merged, _rounded)
