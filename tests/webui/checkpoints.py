"""Small random checkpoints for the tests on a real WebUI.

Run with the WebUI's own Python, from the WebUI's directory:

    cd <webui> && <webui python> <this file> --out DIR [--sizes small|guessed|full] [--only NAME ...] [WebUI's flags]

Every file is made by the WebUI's own model classes, so its keys and shapes are those the WebUI expects. The weights are
drawn, not trained; they are shaped so that a prediction is of order 1, keeps the latent bounded, and depends visibly on
the latent, the time, the prompt and the checkpoint.

`small` models are described by the ``.yaml`` beside the file, which A1111 goes by. Forge and its relatives go by the
file alone: they guess its kind by the UNet's widths and take text encoder and VAE for those of that kind, in full
size. The `guessed` models have these widths, and as few layers as the guess allows. A WebUI that goes by the ``.yaml``
can use them too. The `full` models are as large as the published ones.

The helpers for broken files need nothing but the standard library and are imported by the tests themselves.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

CLIP_FOLDER = "tiny-clip"
LATENT_CHANNELS = 4
VAE_SEED = 1000
XL_TEXT_SEED = 1001
TOKENS = 49408
LATENT_SCALE = {"sd": 0.18215, "xl": 0.13025}

Weights = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class TextEncoder:
    """A text encoder's layers and widths; one of OpenCLIP has an architecture's name too."""

    layers: int
    width: int
    inner: int = 0
    heads: int = 0
    arch: str = ""


@dataclass(frozen=True)
class Sizes:
    """The sizes of the models of a set: UNets by family, text encoders, the VAE."""

    unets: dict[str, dict[str, Any]]
    clip: TextEncoder
    open_clip: dict[str, TextEncoder]
    size_embedding: int
    vae: dict[str, Any]


ONE_LEVEL = {"model_channels": 320, "num_res_blocks": 1, "channel_mult": [1], "attention_resolutions": [1]}
TWO_LEVELS = {"model_channels": 32, "num_res_blocks": 1, "channel_mult": [1, 2], "attention_resolutions": [1, 2]}
SMALL = Sizes(
    unets={
        "sd1": {**TWO_LEVELS, "num_heads": 4},
        "sd2": {**TWO_LEVELS, "num_head_channels": 16, "use_linear_in_transformer": True},
        "xl": {**TWO_LEVELS, "num_head_channels": 16, "use_linear_in_transformer": True, "transformer_depth": [1, 1]},
    },
    clip=TextEncoder(3, 64, inner=128, heads=4),
    open_clip=dict.fromkeys(("sd2", "xl"), TextEncoder(10, 256, inner=1024, arch="ViT-S-32-alt")),
    size_embedding=32,
    vae={"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1},
)
GUESSED = Sizes(
    unets={
        "sd1": {**ONE_LEVEL, "num_heads": 8},
        "sd2": {**ONE_LEVEL, "num_head_channels": 64, "use_linear_in_transformer": True},
        "xl": {
            "model_channels": 320,
            "num_res_blocks": 2,
            "channel_mult": [1, 1, 1],
            "attention_resolutions": [2, 4],
            "transformer_depth": [1, 2, 10],
            "num_head_channels": 64,
            "use_linear_in_transformer": True,
        },
    },
    clip=TextEncoder(12, 768, inner=3072, heads=12),
    open_clip={
        "sd2": TextEncoder(24, 1024, inner=4096, arch="ViT-H-14"),
        "xl": TextEncoder(32, 1280, inner=5120, arch="ViT-bigG-14"),
    },
    size_embedding=256,
    vae={"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2},
)
DEEP = {"model_channels": 320, "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "attention_resolutions": [4, 2, 1]}
FULL = replace(
    GUESSED,
    unets={
        "sd1": {**DEEP, "num_heads": 8},
        "sd2": {**DEEP, "num_head_channels": 64, "use_linear_in_transformer": True},
        "xl": {**GUESSED.unets["xl"], "channel_mult": [1, 2, 4]},
    },
)
SIZES = {"small": SMALL, "guessed": GUESSED, "full": FULL}


# ---------------------------------------------------------------------------------------------------------------------
# what is made
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """One checkpoint: its architecture, the seed of its UNet and text encoder, and what its UNet predicts."""

    name: str
    family: str
    seed: int
    prediction: str = "eps"
    inpainting: bool = False


RECIPES = (
    Recipe("alpha", "sd1", 1),
    Recipe("beta", "sd1", 2),
    Recipe("gamma", "sd1", 3),
    Recipe("vpred", "sd1", 4, prediction="v"),
    Recipe("inpaint-alpha", "sd1", 5, inpainting=True),
    Recipe("sd2-alpha", "sd2", 6, prediction="v"),
    Recipe("sd2-beta", "sd2", 7, prediction="v"),
    Recipe("xl-alpha", "xl", 8),
    Recipe("xl-beta", "xl", 9),
)
NAMES = tuple(recipe.name for recipe in RECIPES)
PICKLED = "beta-pickle"
"""The name of the ``.ckpt`` variant of ``beta``: the same weights, pickled."""


# ---------------------------------------------------------------------------------------------------------------------
# configurations
# ---------------------------------------------------------------------------------------------------------------------


def _unet_params(recipe: Recipe, sizes: Sizes) -> dict[str, Any]:
    """The UNet's arguments in the words of ldm and sgm."""
    contexts = {
        "sd1": sizes.clip.width,
        "sd2": sizes.open_clip["sd2"].width,
        "xl": sizes.clip.width + sizes.open_clip["xl"].width,
    }
    params = {
        "in_channels": 9 if recipe.inpainting else LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": contexts[recipe.family],
        "use_checkpoint": False,
        "legacy": False,
        **sizes.unets[recipe.family],
    }
    if recipe.family != "xl":
        return {**params, "image_size": 32}
    # the name the real SDXL configuration uses; the WebUI replaces it where xformers is absent
    attention = {"spatial_transformer_attn_type": "softmax-xformers"}
    adm = sizes.open_clip["xl"].width + 6 * sizes.size_embedding
    return {**params, **attention, "adm_in_channels": adm, "num_classes": "sequential"}


def _vae_config(target: str, sizes: Sizes) -> dict[str, Any]:
    return {
        "target": target,
        "params": {
            "embed_dim": LATENT_CHANNELS,
            "monitor": "val/rec_loss",
            "ddconfig": {
                "double_z": True,
                "z_channels": LATENT_CHANNELS,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                **sizes.vae,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }


def _ldm_config(recipe: Recipe, clip: Path, sizes: Sizes) -> dict[str, Any]:
    text = "FrozenOpenCLIPEmbedder" if recipe.family == "sd2" else "FrozenCLIPEmbedder"
    text_params = (
        {"arch": sizes.open_clip["sd2"].arch, "version": None, "freeze": True, "layer": "penultimate"}
        if recipe.family == "sd2"
        else {"version": str(clip)}
    )
    unet = {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": _unet_params(recipe, sizes)}
    params = {
        "linear_start": 0.00085,
        "linear_end": 0.0120,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": LATENT_CHANNELS,
        "cond_stage_trainable": False,
        "conditioning_key": "hybrid" if recipe.inpainting else "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": LATENT_SCALE["sd"],
        "use_ema": False,
        "unet_config": unet,
        "first_stage_config": _vae_config("ldm.models.autoencoder.AutoencoderKL", sizes),
        "cond_stage_config": {"target": f"ldm.modules.encoders.modules.{text}", "params": text_params},
    }
    if recipe.prediction == "v":
        params["parameterization"] = "v"
    if recipe.inpainting:
        params["finetune_keys"] = None
    model = "LatentInpaintDiffusion" if recipe.inpainting else "LatentDiffusion"
    return {"model": {"target": f"ldm.models.diffusion.ddpm.{model}", "params": params}}


def _xl_embedders(clip: Path, sizes: Sizes) -> list[dict[str, Any]]:
    encoders = "sgm.modules.encoders.modules"
    names = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    return [
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenCLIPEmbedder",
            "params": {"version": str(clip), "layer": "hidden", "layer_idx": sizes.clip.layers - 1},
        },
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenOpenCLIPEmbedder2",
            "params": {
                "arch": sizes.open_clip["xl"].arch,
                "version": None,
                "freeze": True,
                "layer": "penultimate",
                "always_return_pooled": True,
                "legacy": False,
            },
        },
    ] + [
        {
            "is_trainable": False,
            "input_key": name,
            "target": f"{encoders}.ConcatTimestepEmbedderND",
            "params": {"outdim": sizes.size_embedding},
        }
        for name in names
    ]


def _xl_config(recipe: Recipe, clip: Path, sizes: Sizes) -> dict[str, Any]:
    diffusion = "sgm.modules.diffusionmodules"
    vae = _vae_config("sgm.models.autoencoder.AutoencoderKLInferenceWrapper", sizes)
    # the name the real SDXL configuration uses; the WebUI replaces it where xformers is absent
    vae["params"]["ddconfig"]["attn_type"] = "vanilla-xformers"
    return {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": LATENT_SCALE["xl"],
                "disable_first_stage_autocast": True,
                "denoiser_config": {
                    "target": f"{diffusion}.denoiser.DiscreteDenoiser",
                    "params": {
                        "num_idx": 1000,
                        "weighting_config": {"target": f"{diffusion}.denoiser_weighting.EpsWeighting"},
                        "scaling_config": {"target": f"{diffusion}.denoiser_scaling.EpsScaling"},
                        "discretization_config": {"target": f"{diffusion}.discretizer.LegacyDDPMDiscretization"},
                    },
                },
                "network_config": {
                    "target": f"{diffusion}.openaimodel.UNetModel",
                    "params": _unet_params(recipe, sizes),
                },
                "conditioner_config": {
                    "target": "sgm.modules.GeneralConditioner",
                    "params": {"emb_models": _xl_embedders(clip, sizes)},
                },
                "first_stage_config": vae,
            },
        }
    }


def config_of(recipe: Recipe, clip: Path, sizes: Sizes = SMALL) -> dict[str, Any]:
    """The content of the ``.yaml`` beside the checkpoint; `clip` is the tokenizer's folder."""
    return (_xl_config if recipe.family == "xl" else _ldm_config)(recipe, clip, sizes)


# ---------------------------------------------------------------------------------------------------------------------
# tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for the bytes, in the order of CLIP's vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def write_clip_folder(folder: Path, bpe: Path, encoder: TextEncoder = SMALL.clip) -> None:
    """Write the tokenizer and the configuration of a CLIP; `bpe` is ``bpe_simple_vocab_16e6.txt.gz``."""
    merges = gzip.decompress(bpe.read_bytes()).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    symbols = _byte_symbols()
    words = symbols + [symbol + "</w>" for symbol in symbols] + ["".join(merge.split()) for merge in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    start, end = len(words) - 2, len(words) - 1
    special = {"bos_token": words[start], "eos_token": words[end], "unk_token": words[end], "pad_token": words[end]}
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, **special}
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": len(words),
        "hidden_size": encoder.width,
        "intermediate_size": encoder.inner,
        "projection_dim": encoder.width,
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.heads,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": 1,
    }
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "vocab.json": json.dumps({word: i for i, word in enumerate(words)}),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "special_tokens_map.json": json.dumps(special),
        "tokenizer_config.json": json.dumps(tokenizer),
        "config.json": json.dumps(config, indent=1),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# weights
# ---------------------------------------------------------------------------------------------------------------------

GAINS = (
    # sharp cross attention: a near-uniform one averages the words away, and prompts would look alike
    ("attn2.to_q.weight", 2.0),
    ("attn2.to_k.weight", 2.0),
    ("attn2.to_v.weight", 3.0),
    ("attn2.to_out.0.weight", 3.0),
    ("q_proj.weight", 2.0),
    ("k_proj.weight", 2.0),
)
NORMS = ("norm", "ln_", "layer_norm")


def _draw(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values of one weight; they depend on its name and the seed alone, so files can share parts."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    values = torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))
    if name.endswith(("final_layer_norm.bias", "ln_final.bias")):
        # a mean of zero makes the WebUI's emphasis divide zero by zero
        return 0.1 + 0.1 * values
    if name.endswith("embedding.weight") or "positional_embedding" in name:
        return values * (0.3 if "position" in name else 1.0)
    if len(shape) == 1:
        return 1 + 0.2 * values if name.endswith("weight") else 0.1 * values
    if not shape:
        return values
    fan_in = shape[0] if name.endswith("text_projection") else values[0].numel()
    gain = next((gain for end, gain in GAINS if name.endswith(end)), 1.0)
    return values * gain / fan_in**0.5


def _draw_all(module: torch.nn.Module, prefix: str, seed: int) -> None:
    for name, parameter in module.named_parameters():
        parameter.data = _draw(prefix + name, tuple(parameter.shape), seed)
        parameter.requires_grad_(False)
    module.eval()


def _shape_unet(unet: torch.nn.Module, recipe: Recipe) -> None:
    """Let the UNet predict ``own * x + random(x, t, prompt)``, the random part scaled to a fixed size.

    An epsilon prediction has to contain the latent (most of it is noise), or nothing would ever be denoised. The first
    eight channels of the first convolution carry x and -x; they come back through the last skip connection, and
    SiLU(a) - SiLU(-a) = a takes them through the last activation unchanged.
    """
    import torch

    own, random = (0.0, 0.8) if recipe.prediction == "v" else (0.9, 0.15)
    carried = 2 * LATENT_CHANNELS
    signs = torch.cat([torch.eye(LATENT_CHANNELS), -torch.eye(LATENT_CHANNELS)])

    first = unet.input_blocks[0][0]
    first.weight[:carried] = 0
    first.weight[:carried, :LATENT_CHANNELS, 1, 1] = signs
    first.bias[:carried] = 0

    norm, last = unet.out[0], unet.out[-1]
    # they are normalised in groups: the rest of theirs is empty
    group = norm.num_channels // norm.num_groups
    taken = -(-carried // group) * group
    block, *attention = unet.output_blocks[-1]
    skipped = block.skip_connection.weight.shape[1] - first.weight.shape[0]
    block.skip_connection.weight[:taken] = 0
    block.skip_connection.weight[:carried, skipped : skipped + carried, 0, 0] = torch.eye(carried)
    for layer in (block.out_layers[-1], *(each.proj_out for each in attention)):
        layer.weight[:taken] = 0
        layer.bias[:taken] = 0
    block.skip_connection.bias[:taken] = 0

    norm.weight[:carried], norm.bias[:carried] = (carried / taken) ** 0.5, 0
    last.weight[:, :taken], last.bias[:] = 0, 0
    last.weight *= random / _unet_sample(unet).std()
    last.weight[:, :carried, 1, 1] = own * signs.T


def _unet_sample(unet: torch.nn.Module) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    context = next(layer for name, layer in unet.named_modules() if name.endswith("attn2.to_k")).weight.shape[1]
    extra = {}
    if getattr(unet, "label_emb", None) is not None:
        extra["y"] = normal(4, unet.label_emb[0][0].weight.shape[1])
    x = normal(4, unet.input_blocks[0][0].weight.shape[1], 16, 16)
    return unet(x, timesteps=torch.tensor([10, 300, 600, 999]), context=normal(4, 77, context), **extra)


def _shape_vae(vae: torch.nn.Module, latent_scale: float) -> None:
    """Scale encoded pictures to latents of order 1 with almost no spread, and decoded latents to full contrast."""
    import torch

    generator = torch.Generator().manual_seed(0)
    picture = torch.nn.functional.interpolate(
        torch.rand((4, 3, 8, 8), generator=generator) * 2 - 1, size=(128, 128), mode="bilinear"
    )
    half = LATENT_CHANNELS
    vae.quant_conv.weight[half:], vae.quant_conv.bias[half:] = 0, -12
    vae.quant_conv.bias[:half] = 0
    means = vae.quant_conv(vae.encoder(picture))[:, :half]
    vae.quant_conv.weight[:half] /= means.std() * latent_scale
    latent = torch.randn((4, LATENT_CHANNELS, 16, 16), generator=generator) / latent_scale
    vae.decoder.conv_out.bias[:] = 0
    vae.decoder.conv_out.weight *= 0.5 / vae.decoder(vae.post_quant_conv(latent)).std()


# ---------------------------------------------------------------------------------------------------------------------
# building with the WebUI's classes
# ---------------------------------------------------------------------------------------------------------------------


def _text_models_without_weights() -> Any:
    """Make a text encoder from its configuration alone: the folder has no weights file."""
    from transformers import CLIPTextConfig, CLIPTextModel

    def from_folder(folder: str) -> torch.nn.Module:
        return CLIPTextModel(CLIPTextConfig.from_pretrained(folder))

    return mock.patch.object(CLIPTextModel, "from_pretrained", from_folder)


def _build(recipe: Recipe, clip: Path, sizes: Sizes) -> torch.nn.Module:
    from ldm.util import instantiate_from_config
    from omegaconf import OmegaConf

    config = OmegaConf.create(copy.deepcopy(config_of(recipe, clip, sizes)))
    if recipe.family == "xl":
        config.model.params.first_stage_config.params.ddconfig.attn_type = "vanilla"
    with _text_models_without_weights():
        return instantiate_from_config(config.model)


PARTS = {
    "ldm": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model."},
    "xl": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "conditioner."},
}


def weights_of(recipe: Recipe, clip: Path, sizes: Sizes) -> Weights:
    """The state dict of a checkpoint, in half precision as published files are."""
    make = _small_weights if sizes is SMALL else _guessed_weights
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in make(recipe, clip, sizes).items()
    }


def _small_weights(recipe: Recipe, clip: Path, sizes: Sizes) -> Weights:
    parts = PARTS["xl" if recipe.family == "xl" else "ldm"]
    model = _build(recipe, clip, sizes)
    for part, prefix in parts.items():
        _draw_all(model.get_submodule(prefix[:-1]), prefix, VAE_SEED if part == "vae" else recipe.seed)
    _shape(model.model.diffusion_model, model.first_stage_model, recipe)
    # schedules and EMA bookkeeping are the WebUI's to compute; only weights belong into the file
    return {key: value for key, value in model.state_dict().items() if key.startswith(tuple(parts.values()))}


def _shape(unet: torch.nn.Module, vae: torch.nn.Module, recipe: Recipe) -> None:
    import torch

    with torch.no_grad():
        _shape_unet(unet, recipe)
        _shape_vae(vae, LATENT_SCALE["xl" if recipe.family == "xl" else "sd"])


def _guessed_weights(recipe: Recipe, _clip: Path, sizes: Sizes) -> Weights:
    parts = PARTS["xl" if recipe.family == "xl" else "ldm"]
    unet, vae = _networks(recipe, sizes)
    _draw_all(unet, parts["unet"], recipe.seed)
    _draw_all(vae, parts["vae"], VAE_SEED)
    _shape(unet, vae, recipe)
    weights = {
        f"{parts[part]}{key}": value
        for part, net in (("unet", unet.half()), ("vae", vae.half()))
        for key, value in net.state_dict().items()
    }
    # the text encoders are most of the file: those of SDXL are the same in all files
    seed = XL_TEXT_SEED if recipe.family == "xl" else recipe.seed
    shapes = {f"{parts['text']}{key}": shape for key, shape in _text_shapes(recipe, sizes).items()}
    return {**weights, **{key: _draw(key, shape, seed).half() for key, shape in shapes.items()}}


def _networks(recipe: Recipe, sizes: Sizes) -> tuple[torch.nn.Module, torch.nn.Module]:
    """UNet and VAE of the WebUI's own classes: Forge's, or those of ldm and sgm."""
    params, ddconfig = _unet_params(recipe, sizes), _vae_config("", sizes)["params"]["ddconfig"]
    try:
        from backend.nn.unet import IntegratedUNet2DConditionModel
        from backend.nn.vae import IntegratedAutoencoderKL
    except ImportError:
        return _ldm_networks(recipe, params, ddconfig)
    levels, blocks = len(params["channel_mult"]), params["num_res_blocks"]
    depths = params["transformer_depth"] if isinstance(params["transformer_depth"], list) else [1] * levels
    depths = [depth if 2**level in params["attention_resolutions"] else 0 for level, depth in enumerate(depths)]
    words = ("legacy", "image_size", "attention_resolutions", "spatial_transformer_attn_type")
    unet = IntegratedUNet2DConditionModel(
        **{
            **{key: value for key, value in params.items() if key not in words},
            "num_res_blocks": [blocks] * levels,
            "transformer_depth": [depth for depth in depths for _ in range(blocks)],
            "transformer_depth_output": [depth for depth in depths for _ in range(blocks + 1)],
            "transformer_depth_middle": depths[-1],
        }
    )
    vae = IntegratedAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(ddconfig["ch_mult"]),
        up_block_types=("UpDecoderBlock2D",) * len(ddconfig["ch_mult"]),
        block_out_channels=[ddconfig["ch"] * mult for mult in ddconfig["ch_mult"]],
        layers_per_block=ddconfig["num_res_blocks"],
    )
    return unet, vae


def _ldm_networks(recipe: Recipe, params: dict[str, Any], ddconfig: dict[str, Any]) -> tuple[Any, Any]:
    from ldm.models.autoencoder import AutoencoderKL

    if recipe.family == "xl":
        from sgm.modules.diffusionmodules.openaimodel import UNetModel
    else:
        from ldm.modules.diffusionmodules.openaimodel import UNetModel
    unet = UNetModel(**{key: value for key, value in params.items() if key != "spatial_transformer_attn_type"})
    return unet, AutoencoderKL(ddconfig, {"target": "torch.nn.Identity"}, LATENT_CHANNELS)


def _text_shapes(recipe: Recipe, sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The text encoders' weights by their names in a checkpoint of this family, after the family's prefix."""
    if recipe.family == "sd1":
        return _clip_shapes("transformer.text_model.", sizes.clip)
    if recipe.family == "sd2":
        return _open_clip_shapes("model.", sizes.open_clip["sd2"])
    first = _clip_shapes("embedders.0.transformer.text_model.", sizes.clip)
    return {**first, **_open_clip_shapes("embedders.1.model.", sizes.open_clip["xl"])}


def _clip_shapes(prefix: str, of: TextEncoder) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (TOKENS, of.width),
        "embeddings.position_embedding.weight": (77, of.width),
        **_affine("final_layer_norm", of.width),
    }
    for layer in range(of.layers):
        own = f"encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _affine(f"{own}self_attn.{name}", of.width, of.width)
        shapes |= _affine(f"{own}mlp.fc1", of.inner, of.width) | _affine(f"{own}mlp.fc2", of.width, of.inner)
        shapes |= _affine(f"{own}layer_norm1", of.width) | _affine(f"{own}layer_norm2", of.width)
    return {prefix + name: shape for name, shape in shapes.items()}


def _open_clip_shapes(prefix: str, of: TextEncoder) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embedding.weight": (TOKENS, of.width),
        "positional_embedding": (77, of.width),
        "text_projection": (of.width, of.width),
        **_affine("ln_final", of.width),
    }
    for layer in range(of.layers):
        own = f"transformer.resblocks.{layer}."
        shapes |= {f"{own}attn.in_proj_weight": (3 * of.width, of.width), f"{own}attn.in_proj_bias": (3 * of.width,)}
        shapes |= _affine(f"{own}attn.out_proj", of.width, of.width)
        shapes |= _affine(f"{own}mlp.c_fc", of.inner, of.width) | _affine(f"{own}mlp.c_proj", of.width, of.inner)
        shapes |= _affine(f"{own}ln_1", of.width) | _affine(f"{own}ln_2", of.width)
    return {prefix + name: shape for name, shape in shapes.items()}


def _affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def write_checkpoint(recipe: Recipe, out: Path, clip: Path, sizes: Sizes) -> Path:
    """Write one ``.safetensors`` file and its ``.yaml``."""
    import yaml
    from safetensors.torch import save_file

    path = out / f"{recipe.name}.safetensors"
    save_file(weights_of(recipe, clip, sizes), path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config_of(recipe, clip, sizes), sort_keys=False))
    return path


def write_pickled(source: Path, path: Path) -> Path:
    """Write the weights of a ``.safetensors`` file as a pickled ``.ckpt``, configuration included."""
    import torch
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(source)}, path)
    path.with_suffix(".yaml").write_bytes(source.with_suffix(".yaml").read_bytes())
    return path


def write_all(out: Path, names: Iterable[str] = NAMES, sizes: Sizes = SMALL) -> None:
    """Write the tokenizer, the checkpoints of these names and, with ``beta``, its pickled variant."""
    import open_clip

    wanted = set(names)
    out.mkdir(parents=True, exist_ok=True)
    clip = out / CLIP_FOLDER
    write_clip_folder(clip, Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz"), sizes.clip)
    for recipe in RECIPES:
        if recipe.name in wanted:
            write_checkpoint(recipe, out, clip, sizes)
    if "beta" in wanted:
        write_pickled(out / "beta.safetensors", out / f"{PICKLED}.ckpt")


# ---------------------------------------------------------------------------------------------------------------------
# broken and hostile files (standard library only)
# ---------------------------------------------------------------------------------------------------------------------


def _with_config(source: Path, path: Path) -> Path:
    config = source.with_suffix(".yaml")
    if config.exists():
        path.with_suffix(".yaml").write_bytes(config.read_bytes())
    return path


def write_truncated(source: Path, path: Path, share: float = 0.5) -> Path:
    """Copy the first `share` of a checkpoint, as an interrupted download leaves it."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return _with_config(source, path)


def write_corrupt(source: Path, path: Path) -> Path:
    """Copy a ``.safetensors`` checkpoint with a header that is not JSON."""
    data = bytearray(source.read_bytes())
    (length,) = struct.unpack("<Q", data[:8])
    data[8 : 8 + length] = b"\xff" * length
    path.write_bytes(data)
    return _with_config(source, path)


def write_without(source: Path, path: Path, name: str) -> Path:
    """Copy a ``.safetensors`` checkpoint without one of its tensors."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    tensors = memoryview(data)[8 + length :]
    kept: dict[str, Any] = {}
    parts: list[memoryview] = []
    size = 0
    for key, entry in header.items():
        if key == name:
            continue
        if "data_offsets" in entry:
            begin, end = entry["data_offsets"]
            entry = {**entry, "data_offsets": [size, size + end - begin]}
            parts.append(tensors[begin:end])
            size += end - begin
        kept[key] = entry
    text = json.dumps(kept).encode()
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *parts]))
    return _with_config(source, path)


class _Call:
    """Pickles to a call of a function with these arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def write_malicious(path: Path, marker: Path) -> Path:
    """Write a ``.ckpt`` which creates the folder `marker` when it is unpickled without a check."""
    content = {"state_dict": {"model.diffusion_model.out.2.bias": _Call(os.mkdir, str(marker))}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
    return path


# ---------------------------------------------------------------------------------------------------------------------
# command line
# ---------------------------------------------------------------------------------------------------------------------


def _use_webui(directory: Path, flags: Sequence[str]) -> None:
    """Make the WebUI's pinned repositories importable, by its own rules and with its own flags."""
    sys.argv[1:] = flags
    sys.path.insert(0, str(directory))
    from modules import paths  # noqa: F401


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--sizes", choices=SIZES, default="small")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="write only these")
    arguments, flags = parser.parse_known_args()
    _use_webui(Path.cwd(), flags)
    import torch

    torch.set_num_threads(1)
    write_all(arguments.out.resolve(), arguments.only, SIZES[arguments.sizes])


if __name__ == "__main__":
    main()
