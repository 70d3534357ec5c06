"""Small random checkpoints for the tests on a real WebUI.

Run with the WebUI's own Python, from the WebUI's directory:

    cd <webui> && <webui python> <this file> --out DIR [--only NAME ...]

Every file is made by the WebUI's own model classes from the ``.yaml`` written beside it, so its keys and shapes are
those the WebUI expects. The weights are drawn, not trained; they are shaped so that a prediction is of order 1, keeps
the latent bounded, and depends visibly on the latent, the time, the prompt and the checkpoint.

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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    import torch

CLIP_FOLDER = "tiny-clip"
CLIP_WIDTH = 64
OPEN_CLIP_ARCH = "ViT-S-32-alt"
OPEN_CLIP_WIDTH = 256
SIZE_EMBEDDING = 32
UNET_CHANNELS = 32
LATENT_CHANNELS = 4
VAE_SEED = 1000
LATENT_SCALE = {"sd": 0.18215, "xl": 0.13025}

Weights = dict[str, "torch.Tensor"]


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


def _unet_params(context_dim: int, in_channels: int = LATENT_CHANNELS) -> dict[str, Any]:
    return {
        "in_channels": in_channels,
        "out_channels": LATENT_CHANNELS,
        "model_channels": UNET_CHANNELS,
        "attention_resolutions": [1, 2],
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": context_dim,
        "use_checkpoint": False,
        "legacy": False,
    }


def _vae_config(target: str) -> dict[str, Any]:
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
                "ch": 32,
                "ch_mult": [1, 1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
    }


def _ldm_config(recipe: Recipe, clip: Path) -> dict[str, Any]:
    is_sd2 = recipe.family == "sd2"
    unet = _unet_params(OPEN_CLIP_WIDTH if is_sd2 else CLIP_WIDTH, 9 if recipe.inpainting else LATENT_CHANNELS)
    unet["image_size"] = 32
    unet.update({"num_head_channels": 16, "use_linear_in_transformer": True} if is_sd2 else {"num_heads": 4})
    text = "FrozenOpenCLIPEmbedder" if is_sd2 else "FrozenCLIPEmbedder"
    text_params = (
        {"arch": OPEN_CLIP_ARCH, "version": None, "freeze": True, "layer": "penultimate"}
        if is_sd2
        else {"version": str(clip)}
    )
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
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": _vae_config("ldm.models.autoencoder.AutoencoderKL"),
        "cond_stage_config": {"target": f"ldm.modules.encoders.modules.{text}", "params": text_params},
    }
    if recipe.prediction == "v":
        params["parameterization"] = "v"
    if recipe.inpainting:
        params["finetune_keys"] = None
    model = "LatentInpaintDiffusion" if recipe.inpainting else "LatentDiffusion"
    return {"model": {"target": f"ldm.models.diffusion.ddpm.{model}", "params": params}}


def _xl_embedders(clip: Path) -> list[dict[str, Any]]:
    encoders = "sgm.modules.encoders.modules"
    sizes = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    return [
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenCLIPEmbedder",
            "params": {"version": str(clip), "layer": "hidden", "layer_idx": 1},
        },
        {
            "is_trainable": False,
            "input_key": "txt",
            "target": f"{encoders}.FrozenOpenCLIPEmbedder2",
            "params": {
                "arch": OPEN_CLIP_ARCH,
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
            "input_key": key,
            "target": f"{encoders}.ConcatTimestepEmbedderND",
            "params": {"outdim": SIZE_EMBEDDING},
        }
        for key in sizes
    ]


def _xl_config(clip: Path) -> dict[str, Any]:
    diffusion = "sgm.modules.diffusionmodules"
    unet = _unet_params(CLIP_WIDTH + OPEN_CLIP_WIDTH)
    unet.update(
        adm_in_channels=OPEN_CLIP_WIDTH + 6 * SIZE_EMBEDDING,
        num_classes="sequential",
        num_head_channels=16,
        use_linear_in_transformer=True,
        transformer_depth=[1, 1],
        spatial_transformer_attn_type="softmax-xformers",
    )
    vae = _vae_config("sgm.models.autoencoder.AutoencoderKLInferenceWrapper")
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
                "network_config": {"target": f"{diffusion}.openaimodel.UNetModel", "params": unet},
                "conditioner_config": {
                    "target": "sgm.modules.GeneralConditioner",
                    "params": {"emb_models": _xl_embedders(clip)},
                },
                "first_stage_config": vae,
            },
        }
    }


def config_of(recipe: Recipe, clip: Path) -> dict[str, Any]:
    """The content of the ``.yaml`` beside the checkpoint; `clip` is the tokenizer's folder."""
    return _xl_config(clip) if recipe.family == "xl" else _ldm_config(recipe, clip)


# ---------------------------------------------------------------------------------------------------------------------
# tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for the bytes, in the order of CLIP's vocabulary: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def write_clip_folder(folder: Path, bpe: Path) -> None:
    """Write the tokenizer and the configuration of a tiny CLIP; `bpe` is ``bpe_simple_vocab_16e6.txt.gz``."""
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
        "hidden_size": CLIP_WIDTH,
        "intermediate_size": 2 * CLIP_WIDTH,
        "projection_dim": CLIP_WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
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

    block, attention = unet.output_blocks[-1][0], unet.output_blocks[-1][1]
    skipped = block.skip_connection.weight.shape[1] - UNET_CHANNELS
    block.skip_connection.weight[:carried] = 0
    block.skip_connection.weight[:carried, skipped : skipped + carried, 0, 0] = torch.eye(carried)
    for layer in (block.out_layers[-1], attention.proj_out):
        layer.weight[:carried] = 0
        layer.bias[:carried] = 0
    block.skip_connection.bias[:carried] = 0

    norm, last = unet.out[0], unet.out[-1]
    norm.weight[:carried], norm.bias[:carried] = 1, 0
    last.weight[:, :carried], last.bias[:] = 0, 0
    last.weight *= random / _unet_sample(unet).std()
    last.weight[:, :carried, 1, 1] = own * signs.T


def _unet_sample(unet: torch.nn.Module) -> torch.Tensor:
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    context = unet.input_blocks[1][1].transformer_blocks[0].attn2.to_k.weight.shape[1]
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


def _build(recipe: Recipe, clip: Path) -> torch.nn.Module:
    from ldm.util import instantiate_from_config
    from omegaconf import OmegaConf

    config = OmegaConf.create(copy.deepcopy(config_of(recipe, clip)))
    if recipe.family == "xl":
        config.model.params.first_stage_config.params.ddconfig.attn_type = "vanilla"
    with _text_models_without_weights():
        return instantiate_from_config(config.model)


PARTS = {
    "ldm": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "cond_stage_model."},
    "xl": {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text": "conditioner."},
}


def weights_of(recipe: Recipe, clip: Path) -> Weights:
    """The state dict of a checkpoint, in half precision as published files are."""
    import torch

    parts = PARTS["xl" if recipe.family == "xl" else "ldm"]
    model = _build(recipe, clip)
    for part, prefix in parts.items():
        _draw_all(model.get_submodule(prefix[:-1]), prefix, VAE_SEED if part == "vae" else recipe.seed)
    with torch.no_grad():
        _shape_unet(model.model.diffusion_model, recipe)
        _shape_vae(model.first_stage_model, LATENT_SCALE["xl" if recipe.family == "xl" else "sd"])
    # schedules and EMA bookkeeping are the WebUI's to compute; only weights belong into the file
    return {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
        if key.startswith(tuple(parts.values()))
    }


def write_checkpoint(recipe: Recipe, out: Path, clip: Path) -> Path:
    """Write one ``.safetensors`` file and its ``.yaml``."""
    from omegaconf import OmegaConf
    from safetensors.torch import save_file

    path = out / f"{recipe.name}.safetensors"
    save_file(weights_of(recipe, clip), path)
    path.with_suffix(".yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config_of(recipe, clip))))
    return path


def write_pickled(source: Path, path: Path) -> Path:
    """Write the weights of a ``.safetensors`` file as a pickled ``.ckpt``, configuration included."""
    import torch
    from safetensors.torch import load_file

    torch.save({"state_dict": load_file(source)}, path)
    path.with_suffix(".yaml").write_bytes(source.with_suffix(".yaml").read_bytes())
    return path


def write_all(out: Path, names: Iterable[str] = NAMES) -> None:
    """Write the tokenizer, the checkpoints of these names and, with ``beta``, its pickled variant."""
    import open_clip

    wanted = set(names)
    out.mkdir(parents=True, exist_ok=True)
    clip = out / CLIP_FOLDER
    write_clip_folder(clip, Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz"))
    for recipe in RECIPES:
        if recipe.name in wanted:
            write_checkpoint(recipe, out, clip)
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
    tensors = data[8 + length :]
    kept, body = {}, b""
    for key, entry in header.items():
        if key == name:
            continue
        if "data_offsets" in entry:
            begin, end = entry["data_offsets"]
            entry = {**entry, "data_offsets": [len(body), len(body) + end - begin]}
            body += tensors[begin:end]
        kept[key] = entry
    text = json.dumps(kept).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
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


def _use_webui(directory: Path) -> None:
    """Make the WebUI's pinned repositories importable, by its own rules."""
    sys.argv = sys.argv[:1]
    sys.path.insert(0, str(directory))
    from modules import paths  # noqa: F401


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="write only these")
    arguments = parser.parse_args()
    _use_webui(Path.cwd())
    import torch

    torch.set_num_threads(1)
    write_all(arguments.out.resolve(), arguments.only)


if __name__ == "__main__":
    main()
