"""UNets of the published sizes with random weights, guided, as k-diffusion's samplers call them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ..studio.k_diffusion_parts import external

CFG = 7.0
TOKENS = 77
UNETS: dict[str, dict[str, Any]] = {
    "sd15": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
"""The published sizes of SD1.5 and SDXL; where there is no entry, diffusers' default is SD1's size."""
_TINY = {"block_out_channels": (16, 32, 32), "cross_attention_dim": 32, "layers_per_block": 1, "norm_num_groups": 8}
TINY: dict[str, dict[str, Any]] = {
    "sd15": {
        **_TINY,
        "attention_head_dim": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "sdxl": {
        **UNETS["sdxl"],
        **_TINY,
        "transformer_layers_per_block": (1, 1, 2),
        "attention_head_dim": (2, 4, 4),
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 64,
    },
}
"""The same parts in a size that a CPU evaluates in a moment."""
LATENT = {"sd15": 64, "sdxl": 128}
"""The side of the latent of a picture of the size that they were trained on."""
TINY_LATENT = 8
_TIMES = 6
"""SDXL gets six numbers of a picture's size."""


class Guided(nn.Module):
    """A UNet's denoised latent, guided in one batch, for latents (1, 4, h, w). kind: a key of `UNETS`."""

    def __init__(self, kind: str, seed: int, device: torch.device, dtype: torch.dtype, tiny: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        config = (TINY if tiny else UNETS)[kind]
        self.unet = new_unet(config, device, dtype)
        with torch.device(device):
            self.texts = torch.randn(2, TOKENS, config["cross_attention_dim"], dtype=dtype)
            self.more: dict[str, Any] = {}
            if "addition_embed_type" in config:
                width = config["projection_class_embeddings_input_dim"] - _TIMES * config["addition_time_embed_dim"]
                pooled, times = torch.randn(2, width, dtype=dtype), torch.ones(2, _TIMES, dtype=dtype)
                self.more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times}}
            alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
        self.wrap = external.DiscreteEpsDDPMDenoiser(self._predict, alphas, quantize=False).to(device)
        self.evaluations = 0

    def _predict(self, x: Tensor, timestep: Tensor) -> Tensor:
        inputs = {"encoder_hidden_states": self.texts, **self.more}
        predicted: Tensor = self.unet(x.to(self.unet.dtype), timestep, **inputs, return_dict=False)[0]
        return predicted.to(x.dtype)

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        self.evaluations += 1
        cond, uncond = self.wrap(torch.cat([x, x]), torch.cat([sigma, sigma])).chunk(2)
        return uncond + CFG * (cond - uncond)


def new_unet(config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """Make a UNet at once in its place and precision: in float32 first, the largest would take twice the memory."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return UNet2DConditionModel(**config).requires_grad_(False).eval()
    finally:
        torch.set_default_dtype(usual)
