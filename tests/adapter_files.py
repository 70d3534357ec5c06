"""Names and shapes of every kind of adapter file, for any UNet: small and full-size test files are made of them.

`widths` are the blocks' widths by their ldm names in the order in which the UNet runs them, as `widths_of(unet)` gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib_amdm.adapters.attach import blocks_of

Shapes = dict[str, tuple[int, ...]]
Widths = Mapping[str, int]
MIGC_BLOCKS = ("middle_block.1", "output_blocks.3.1", "output_blocks.4.1", "output_blocks.5.1")


def widths_of(unet: nn.Module) -> dict[str, int]:
    return {block.name: block.width for block in blocks_of(unet)}


def sd1_unet() -> Any:
    """Stable Diffusion 1's UNet, without memory for its weights."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280))


def sdxl_unet() -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
        )


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _mlp(name: str, into: int, out: int, hidden: int) -> Shapes:
    return {
        **linear(f"{name}.0", hidden, into),
        **linear(f"{name}.2", hidden, hidden),
        **linear(f"{name}.4", out, hidden),
    }


def ip_shapes(
    widths: Widths,
    context: int = 768,
    variant: str = "base",
    features: int | None = None,
    tokens: int | None = None,
    inner: int | None = None,
    depth: int = 4,
) -> Shapes:
    """An IP-Adapter; the defaults are the published ones' for ViT-H. inner, depth: of the resampler of "plus"."""
    features = features or (1024 if variant == "base" else 1280)
    if variant == "base":
        image = {**linear("proj", (tokens or 4) * context, features), **norm("norm", context)}
    elif variant == "full":
        image = {
            **linear("proj.0", features, features),
            **linear("proj.2", context, features),
            **norm("proj.3", context),
        }
    else:
        d = inner or {768: 768, 2048: 1280}.get(context, 64)
        image = {"latents": (1, tokens or 16, d), **linear("proj_in", d, features)}
        image |= {**linear("proj_out", context, d), **norm("norm_out", context)}
        for n in range(depth):
            image |= {**norm(f"layers.{n}.0.norm1", d), **norm(f"layers.{n}.0.norm2", d)}
            image |= {f"layers.{n}.0.to_q.weight": (d, d), f"layers.{n}.0.to_kv.weight": (2 * d, d)}
            image |= {f"layers.{n}.0.to_out.weight": (d, d), **norm(f"layers.{n}.1.0", d)}
            image |= {f"layers.{n}.1.1.weight": (4 * d, d), f"layers.{n}.1.3.weight": (d, 4 * d)}
    shapes = {f"image_proj.{name}": shape for name, shape in image.items()}
    ordered = sorted(widths, key=lambda name: name.startswith("middle_block"))
    for n, block in enumerate(ordered):
        for part in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * n + 1}.{part}.weight"] = (widths[block], context)
    return shapes


def fuser_shapes(widths: Widths, context: int = 768) -> Shapes:
    shapes: Shapes = {}
    for block, c in widths.items():
        own = {"alpha_attn": (), "alpha_dense": (), **linear("linear", c, context)}
        own |= {f"attn.to_{x}.weight": (c, c) for x in "qkv"} | linear("attn.to_out.0", c, c)
        own |= {**linear("ff.net.0.proj", 8 * c, c), **linear("ff.net.2", c, 4 * c)}
        own |= {**norm("norm1", c), **norm("norm2", c)}
        shapes |= {f"{block}.fuser.{name}": shape for name, shape in own.items()}
    return shapes


def gligen_shapes(widths: Widths, context: int = 768, hidden: int = 512) -> Shapes:
    return {
        **fuser_shapes(widths, context),
        **_mlp("position_net.linears", context + 64, context, hidden),
        "position_net.null_positive_feature": (context,),
        "position_net.null_position_feature": (64,),
    }


def interactdiffusion_shapes(widths: Widths, context: int = 768, hidden: int = 512) -> Shapes:
    return {
        **gligen_shapes(widths, context, hidden),
        **_mlp("position_net.linear_action", context + 64, context, hidden),
        "position_net.interaction_embedding.emb.weight": (30, context),
        "position_net.position_embedding.emb.weight": (3, context),
        "position_net.null_action_feature": (context,),
    }


def migc_shapes(
    widths: Widths, context: int = 768, plus: bool = False, blocks: tuple[str, ...] = MIGC_BLOCKS, hidden: int = 512
) -> Shapes:
    """MIGC as its file names things, MIGC++ in diffusers' layout as its file has it, for Stable Diffusion 1's shape."""
    diffusers = dict(zip(MIGC_BLOCKS, ("mid_block.attentions.0", *(f"up_blocks.1.attentions.{n}" for n in range(3)))))
    shapes: Shapes = {}
    for block in blocks:
        c = widths[f"{block}.transformer_blocks.0"]
        own = {f"la.to_{x}.weight": (c, c) for x in "qkv"} | linear("la.to_out.0", c, c) | linear("ea.to_out.0", c, c)
        own |= {"ea.to_q.weight": (c, c), "ea.to_k.weight": (c, context), "ea.to_v.weight": (c, context)}
        own |= {**norm("norm", c), "sac.conv2.weight": (1, c, 1, 1), "sac.conv2.bias": (1,)}
        own |= {**linear("sac.cbam2.ChannelGate.mlp.1", 30, 30), **linear("sac.cbam2.ChannelGate.mlp.3", 30, 30)}
        own |= {"sac.cbam2.SpatialGate.spatial.conv.weight": (1, 2, 7, 7)}
        own |= _mlp("pos_net.linears_position", 64, context, hidden)
        if plus:
            own["gamma"] = (1,)
        else:
            own |= {"sac.conv1.weight": (c, c + 1, 1, 1), "sac.conv1.bias": (c,)}
            own |= {
                **linear("sac.cbam1.ChannelGate.mlp.1", c // 16, c),
                **linear("sac.cbam1.ChannelGate.mlp.3", c, c // 16),
            }
            own |= {"sac.cbam1.SpatialGate.spatial.conv.weight": (1, 2, 7, 7)}
        start = f"{diffusers[block]}" if plus else f"model.diffusion_model.{block}"
        inner = "attn2.processor.migc" if plus else "attn2.migc"
        shapes |= {f"{start}.transformer_blocks.0.{inner}.{name}": shape for name, shape in own.items()}
    return shapes


def random_tensors(
    shapes: Shapes, dtype: torch.dtype = torch.float32, seed: int = 0, by_fan_in: bool = False
) -> dict[str, Tensor]:
    """Random weights of these names and shapes; norms scale by about 1, gates are open.

    by_fan_in: a layer's output is of its input's order, however wide it is.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in shapes.items():
        spread = shape[1] ** -0.5 if by_fan_in and len(shape) > 1 else 0.1
        tensor = spread * torch.randn(shape, generator=generator)
        if name.endswith((".alpha_attn", ".alpha_dense", "gamma")):
            tensor = torch.full(shape, 0.7)
        elif name.endswith(".weight") and len(shape) == 1:
            tensor = 1 + tensor
        tensors[name] = tensor.to(dtype)
    return tensors
