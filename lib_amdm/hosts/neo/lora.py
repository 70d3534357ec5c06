"""Forge Neo: the LoRAs of a slot's own prompt, with Forge Neo's functions for reading and merging."""

from __future__ import annotations

from typing import Any

import torch
from backend.float import stochastic_rounding
from backend.patcher import lora
from backend.state_dict import state_dict_prefix_replace
from backend.utils import load_torch_file

from ..common.patcher_lora import LoraFunctions, warnings_of_host

OTHER_NAMES = {
    "lora_unet__": "lora_unet_",
    # trained as a part of Anima's network, but in the host a part of its text encoder
    "diffusion_model.llm_adapter.": "text_encoders.qwen3_06b.llm_adapter.",
    "lora_unet_llm_adapter_": "lora_te_llm_adapter_",
}
"""Prefixes of some layers' names in files, and in the host's lists."""


def _merged(patches: list[Any], weight: torch.Tensor, key: str) -> tuple[torch.Tensor, str]:
    with warnings_of_host(lora.logger.name, "") as warnings:
        # it adds to its argument in place
        merged = lora.merge_lora_to_weight(patches, weight.to(torch.float32, copy=True), key, torch.float32)
    return merged, " ".join(warnings)


FUNCTIONS = LoraFunctions(
    lora,
    tensors_of=lambda filename: state_dict_prefix_replace(load_torch_file(filename, safe_load=True), OTHER_NAMES),
    patches_of=lambda weights, keys: lora.load_lora(weights, keys)[0],
    merged=_merged,
    # stochastic rounding to 8 bits, seeded per layer so that it is reproducible
    rounded=lambda merged, dtype, key: stochastic_rounding(merged, dtype, seed=lora.string_to_seed(key)),
)
