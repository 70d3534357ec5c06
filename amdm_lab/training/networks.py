"""The small networks of the shapes world, made with diffusers and transformers, and the real CLIP tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..studio.tokenizer import TOKENS, VOCABULARY, write_tokenizer
from ..world.scenes import LATENT

CONTEXT = 24
"""Width of the text encoder."""
VAE_CHANNELS = (32, 32, 32, 64)
UNET_CHANNELS = (32, 64, 96)
HEADS = 4
BEGIN, END = 49406, 49407


def new_vae(channels: int = LATENT[0]) -> AutoencoderKL:
    """Make an autoencoder: pictures (batch, 3, h, w) from -1 to 1, latents (batch, channels, h / 8, w / 8)."""
    return AutoencoderKL(
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
    )


def new_unet(channels: int = LATENT[0]) -> UNet2DConditionModel:
    """Make a UNet: eps of latents (batch, channels, h, w) at timesteps 0 to 999, for texts (batch, 77, CONTEXT)."""
    return UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        sample_size=LATENT[1],
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS,  # diffusers reads this as the number of heads
    )


def text_config() -> CLIPTextConfig:
    """Return the text encoder's configuration: CLIP's layout and vocabulary, three thin layers."""
    return CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=CONTEXT,
        intermediate_size=4 * CONTEXT,
        projection_dim=CONTEXT,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        max_position_embeddings=TOKENS,
        bos_token_id=BEGIN,
        eos_token_id=END,
        pad_token_id=END,
    )


def new_text_encoder() -> CLIPTextModel:
    return CLIPTextModel(text_config())


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Return CLIP's tokenizer, with its files in `folder`."""
    return CLIPTokenizer.from_pretrained(write_tokenizer(folder / "clip"))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Return token numbers (texts, 77), padded with the end token as Stable Diffusion's tokenizer pads."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
