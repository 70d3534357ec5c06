"""Writing a checkpoint as Stable Diffusion 1 has it: ldm's names for the weights, and ldm's yaml beside the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer.text_model."
LDM = "ldm.modules"

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
    """The three networks as one float16 safetensors file, and the yaml that describes them beside it.

    scale_factor: what the VAE's latents are multiplied by. clip_folder: where the yaml says that the text encoder's
    configuration and the tokenizer are: the WebUI needs a path that is right on its machine. params: what the yaml says
    beside that of the model.
    """
    weights = {**unet_weights(unet), **vae_weights(vae), **text_weights(text_encoder)}
    save_file({key: value.detach().half().contiguous() for key, value in weights.items()}, file)
    config = config_of(unet, vae, scale_factor, clip_folder)
    config["model"]["params"] |= params or {}
    write_yaml(file.with_suffix(".yaml"), config)


def write_yaml(file: Path, config: Mapping[str, Any]) -> None:
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def unet_weights(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A diffusers UNet's weights by ldm's names."""
    per_level = unet.config.layers_per_block + 1
    attends = ["Attn" in kind for kind in unet.config.up_block_types]
    return {UNET_PREFIX + _unet_name(key, per_level, attends): value for key, value in unet.state_dict().items()}


def _unet_name(key: str, per_level: int, attends: list[bool]) -> str:
    for theirs, ours in _UNET_ENDS.items():
        if key.startswith(theirs + "."):
            return ours + _resnet_part(key[len(theirs) :])
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)(\..+)", key)
    assert found is not None, key
    side, _, kind, _, rest = found.groups()
    level, index = int(found[2]), int(found[4])
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
    """A diffusers autoencoder's weights by ldm's names."""
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
    """ldm's attention in the autoencoder is made of 1x1 convolutions."""
    linear = key.endswith(".weight") and re.search(r"\.to_(q|k|v|out\.0)\.", key)
    return value[:, :, None, None] if linear else value


def text_weights(text_encoder: CLIPTextModel) -> dict[str, Tensor]:
    """A CLIP text encoder's weights by the names of SD1's files, whatever transformers' release calls them."""
    return {
        TEXT_PREFIX + key.removeprefix("text_model."): value
        for key, value in text_encoder.state_dict().items()
        if not key.endswith("position_ids")
    }


def config_of(unet: UNet2DConditionModel, vae: AutoencoderKL, scale_factor: float, clip_folder: str) -> dict[str, Any]:
    """The yaml's contents: SD1's schedule and classes with these networks' sizes."""
    return {
        "model": {
            "base_learning_rate": 1.0e-4,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": 0.00085,
                "linear_end": 0.012,
                "num_timesteps_cond": 1,
                "log_every_t": 200,
                "timesteps": 1000,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": unet.config.sample_size,
                "channels": vae.config.latent_channels,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "scale_factor": scale_factor,
                "use_ema": False,
                "unet_config": {
                    "target": f"{LDM}.diffusionmodules.openaimodel.UNetModel",
                    "params": _unet_params(unet),
                },
                "first_stage_config": {
                    "target": "ldm.models.autoencoder.AutoencoderKL",
                    "params": {
                        "embed_dim": vae.config.latent_channels,
                        "ddconfig": _vae_params(vae),
                        "lossconfig": {"target": "torch.nn.Identity"},
                    },
                },
                "cond_stage_config": {
                    "target": f"{LDM}.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": clip_folder},
                },
            },
        }
    }


def _unet_params(unet: UNet2DConditionModel) -> dict[str, Any]:
    channels = unet.config.block_out_channels
    attends = [2**level for level, kind in enumerate(unet.config.down_block_types) if "Attn" in kind]
    return {
        "image_size": unet.config.sample_size,
        "in_channels": unet.config.in_channels,
        "out_channels": unet.config.out_channels,
        "model_channels": channels[0],
        "attention_resolutions": attends,
        "num_res_blocks": unet.config.layers_per_block,
        "channel_mult": list(_multiples(channels)),
        "num_heads": unet.config.attention_head_dim,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": unet.config.cross_attention_dim,
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae_params(vae: AutoencoderKL) -> dict[str, Any]:
    channels = vae.config.block_out_channels
    return {
        "double_z": True,
        "z_channels": vae.config.latent_channels,
        "resolution": 128,
        "in_channels": 3,
        "out_ch": 3,
        "ch": channels[0],
        "ch_mult": list(_multiples(channels)),
        "num_res_blocks": vae.config.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }


def _multiples(channels: tuple[int, ...]) -> Iterator[int]:
    return (width // channels[0] for width in channels)
