"""Small checkpoints of random weights, made by ComfyUI's own classes and its Python.

    cd <ComfyUI> && <its python> <this file> FOLDER

ComfyUI knows a UNet of SD1 by its width of 320 and its contexts of 768; one level and one block are enough. `alpha` and
`beta` have a UNet alone, and `alpha-copy` has the weights of `alpha` in another file. `sd2` and `upscaler` are of other
families. The others are whole checkpoints, with a text encoder and a VAE of the published sizes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

SEEDS = {"alpha": 1, "beta": 2}
CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": 1,
    "channel_mult": [1],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "legacy": False,
}
OTHERS: dict[str, dict[str, Any]] = {
    "sd2": {"context_dim": 1024, "use_linear_in_transformer": True, "num_heads": -1, "num_head_channels": 64},
    "upscaler": {
        "context_dim": 1024,
        "use_linear_in_transformer": True,
        "in_channels": 7,
        "model_channels": 256,
        "num_classes": 1000,
        "channel_mult": [1, 1, 1, 1],
        "transformer_depth": [1, 1, 1, 1],
        "transformer_depth_output": [1] * 8,
        "disable_self_attentions": [True, True, True, False],
    },
}
"""The differences of the other families from `CONFIG`. An upscaler has other latents."""
DD = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def write(folder: Path) -> None:
    """Write the checkpoints, and a LoRA for `alpha`."""
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.ops import disable_weight_init
    from safetensors.torch import save_file
    from webui import checkpoints as drawn

    vae = AutoencoderKL(ddconfig=DD, embed_dim=4)
    drawn._draw_all(vae, "first_stage_model.", drawn.VAE_SEED)
    with torch.no_grad():
        drawn._shape_vae(vae, drawn.LATENT_SCALE["sd"])
    for name, differences in OTHERS.items():
        unet = UNetModel(**{**CONFIG, **differences}, operations=disable_weight_init)
        drawn._draw_all(unet, "model.diffusion_model.", len(name))
        save_file(_half(_prefixed(unet, "model.diffusion_model.")), folder / f"{name}.safetensors")
    for name, seed in SEEDS.items():
        recipe = drawn.Recipe(name, "sd1", seed)
        unet = UNetModel(**CONFIG, operations=disable_weight_init)
        drawn._draw_all(unet, "model.diffusion_model.", seed)
        with torch.no_grad():
            drawn._shape_unet(unet, recipe)
        weights = _half(_prefixed(unet, "model.diffusion_model."))
        save_file(weights, folder / f"{name}.safetensors")
        if name == "alpha":
            save_file(weights, folder / f"{name}-copy.safetensors")
            save_file(_lora(weights), folder / "lora.safetensors")
        shapes = drawn._text_shapes(recipe, drawn.GUESSED)
        text = {f"cond_stage_model.{key}": drawn._draw(key, shape, seed) for key, shape in shapes.items()}
        save_file(
            {**weights, **_half(text), **_half(_prefixed(vae, "first_stage_model."))},
            folder / f"whole-{name}.safetensors",
        )


def _prefixed(module: Any, prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in module.state_dict().items()}


def _half(weights: dict[str, Any]) -> dict[str, Any]:
    return {key: value.half().contiguous() for key, value in weights.items()}


def _lora(weights: dict[str, Any]) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(3)
    made = {}
    for key, value in weights.items():
        if "input_blocks.1.1." in key and key.endswith(("attn2.to_v.weight", "attn1.to_v.weight", "attn1.to_q.weight")):
            name = key.removeprefix("model.diffusion_model.input_blocks.1.1.").removesuffix(".weight")
            name = f"lora_unet_down_blocks_0_attentions_0_{name.replace('.', '_')}"
            made[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 4, generator=generator) / 2
            made[f"{name}.lora_down.weight"] = torch.randn(4, value.shape[1], generator=generator) / 4
            made[f"{name}.alpha"] = torch.tensor(4.0)
    assert made
    return made


if __name__ == "__main__":
    sys.path[:0] = [str(Path.cwd()), str(Path(__file__).resolve().parents[1])]
    target, sys.argv = Path(sys.argv[1]), [sys.argv[0], "--cpu"]
    from comfy.options import enable_args_parsing

    enable_args_parsing()
    write(target)
