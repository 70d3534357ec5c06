"""Writing a checkpoint as Stable Diffusion 1 has it: ldm's names for the weights, and ldm's yaml next to the file."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

from ..studio.checkpoint_file import MODEL, SD1

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_VAE_PARTS = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def write_checkpoint(
    file: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    scale_factor: float,
    clip_folder: str,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Write the networks into one float16 safetensors file, and the yaml that describes them next to it.

    unet, vae, text_encoder: the networks.
    scale_factor: what the VAE's latents are multiplied by.
    clip_folder: the folder of the text encoder's configuration and the tokenizer, as the yaml names it. A WebUI needs a
        path that is right on its machine.
    params: further entries of the yaml.
    """
    weights = {**unet_weights(unet), **vae_weights(vae), **text_weights(text_encoder)}
    save_file({key: value.detach().half().contiguous() for key, value in weights.items()}, file)
    config = config_of(unet, vae, scale_factor, clip_folder)
    config["model"]["params"] |= params or {}
    write_yaml(file.with_suffix(".yaml"), config)


def write_yaml(file: Path, config: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def unet_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """Return a diffusers UNet's weights by ldm's names."""
    per_level = unet.config.layers_per_block + 1
    attends = ["Attn" in kind for kind in unet.config.up_block_types]
    return {UNET_PREFIX + _unet_name(key, per_level, attends): value for key, value in unet.state_dict().items()}


def _unet_name(key: str, per_level: int, attends: list[bool]) -> str:
    for theirs, ours in _UNET_ENDS.items():
        if key.startswith(theirs + "."):
            return ours + _resnet_part(key[len(theirs) :])
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\..+)", key)
    assert match is not None, key
    side, _, kind, _, rest = match.groups()
    level, index = int(match[2]), int(match[4])
    if kind == "downsamplers":
        return f"input_blocks.{per_level * (level + 1)}.0" + rest.replace(".conv.", ".op.")
    if kind == "upsamplers":
        return f"output_blocks.{per_level * (level + 1) - 1}.{1 + attends[level]}{rest}"
    layer = "0" if kind == "resnets" else "1"
    # the first input block is the first convolution, and only output blocks have a layer more than the others
    number = per_level * level + index + (1 if side == "down" else 0)
    return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{layer}" + _resnet_part(rest)


def _resnet_part(rest: str) -> str:
    head, _, tail = rest[1:].partition(".")
    return f".{_RESNET.get(head, head)}.{tail}" if tail else rest


def vae_weights(vae: AutoencoderKL) -> dict[str, Tensor]:
    """Return a diffusers autoencoder's weights by ldm's names."""
    levels = len(vae.config.block_out_channels)
    return {VAE_PREFIX + _vae_name(key, levels): _as_convolution(key, value) for key, value in vae.state_dict().items()}


def _vae_name(key: str, levels: int) -> str:
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    # ldm counts the decoder's levels from the picture's side
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
    for theirs, ours in _VAE_PARTS.items():
        key = re.sub(rf"(?<=\.){re.escape(theirs)}(?=\.)", ours, key)
    return key


def _as_convolution(key: str, value: Tensor) -> Tensor:
    """Return a weight as ldm has it: its attention in the autoencoder is made of 1x1 convolutions."""
    linear = key.endswith(".weight") and re.search(r"\.to_(q|k|v|out\.0)\.", key)
    return value[:, :, None, None] if linear else value


def text_weights(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """Return a CLIP text encoder's weights by the names of SD1's files, whatever transformers' release calls them."""
    return {
        TEXT_PREFIX + key.removeprefix("text_model."): value
        for key, value in text_encoder.state_dict().items()
        if not key.endswith("position_ids")
    }


def config_of(unet: UNet2DConditionModel, vae: AutoencoderKL, scale_factor: float, clip_folder: str) -> dict[str, Any]:
    """Return the yaml's contents: SD1's, with these networks' sizes."""
    params = copy.deepcopy(SD1)
    params |= {"image_size": unet.config.sample_size, "channels": vae.config.latent_channels}
    params["scale_factor"] = scale_factor
    channels = unet.config.block_out_channels
    params["unet_config"]["params"] |= {
        "image_size": unet.config.sample_size,
        "in_channels": unet.config.in_channels,
        "out_channels": unet.config.out_channels,
        "model_channels": channels[0],
        "attention_resolutions": [
            2**level for level, kind in enumerate(unet.config.down_block_types) if "Attn" in kind
        ],
        "num_res_blocks": unet.config.layers_per_block,
        "channel_mult": [width // channels[0] for width in channels],
        "num_heads": unet.config.attention_head_dim,
        "context_dim": unet.config.cross_attention_dim,
    }
    channels = vae.config.block_out_channels
    params["first_stage_config"]["params"]["embed_dim"] = vae.config.latent_channels
    params["first_stage_config"]["params"]["ddconfig"] |= {
        "z_channels": vae.config.latent_channels,
        "ch": channels[0],
        "ch_mult": [width // channels[0] for width in channels],
        "num_res_blocks": vae.config.layers_per_block,
    }
    params["cond_stage_config"]["params"]["version"] = clip_folder
    return {"model": {**MODEL, "params": params}}
