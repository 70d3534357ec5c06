"""The shapes world's adapters before training: a GLIGEN, an IP-Adapter, and the CLIP vision encoder that it sees by.

All are made as files' tensors, so what is trained is what `lib_amdm.adapters` runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib_amdm.adapters.attach import blocks_of
from lib_amdm.adapters.clip_vision import ClipVision, clip_vision
from lib_amdm.adapters.gligen import Gligen
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.kinds import adapter_file

from ..world.scenes import SIZE
from .networks import CONTEXT

BOX = 64
"""The number of a box's Fourier features."""
POSITION_HIDDEN = 96
IMAGE_EMBEDS = 64
READING = 0.35
"""The factor of a reading's logits, with which a token says its place as loudly."""
VISION_WIDTH, VISION_LAYERS, PATCH = 128, 3, 16


def new_layout(unet: nn.Module) -> Gligen:
    """Make a GLIGEN for this UNet.

    Its gates are open and its last layers zero, because gates alone open slowly; its queries are those of the UNet's
    own cross-attention.
    """
    tensors: dict[str, Tensor] = {}
    for block in blocks_of(unet):
        width, name = block.width, f"{block.name}.fuser"
        tensors |= {f"{name}.alpha_attn": torch.tensor(1.0), f"{name}.alpha_dense": torch.tensor(1.0)}
        tensors |= _linear(f"{name}.linear", CONTEXT, width)
        tensors[f"{name}.attn.to_q.weight"] = block.module.get_parameter("attn2.to_q.weight").detach().clone()
        for part in "kv":
            tensors |= _linear(f"{name}.attn.to_{part}", width, width, bias=False)
        tensors |= _linear(f"{name}.ff.net.0.proj", width, 8 * width)
        for part, inner in (("attn.to_out.0", width), ("ff.net.2", 4 * width)):
            tensors |= {f"{name}.{part}.weight": torch.zeros(width, inner), f"{name}.{part}.bias": torch.zeros(width)}
        tensors |= _norm(f"{name}.norm1", width) | _norm(f"{name}.norm2", width)
    sizes = (CONTEXT + BOX, POSITION_HIDDEN, POSITION_HIDDEN, CONTEXT)
    for number, (inner, outer) in enumerate(itertools.pairwise(sizes)):
        tensors |= _linear(f"position_net.linears.{2 * number}", inner, outer)
    tensors["position_net.null_positive_feature"] = torch.zeros(CONTEXT)
    tensors["position_net.null_position_feature"] = torch.zeros(BOX)
    return Gligen(adapter_file(tensors, "layout")).requires_grad_(True)


def new_image(unet: nn.Module, places: Tensor, readings: Sequence[tuple[Tensor, Tensor]]) -> IPAdapter:
    """Make an IP-Adapter for this UNet, with an image token for each place.

    It begins with the UNet's own keys, and with values of zero. places: the text encoder's output for each place,
    (places, CONTEXT), so that the UNet's queries find the tokens. readings: for each place the weight (kinds,
    IMAGE_EMBEDS) and bias (kinds,) that read from the image_embeds what the picture has there; that is what the tokens
    say beside their place.
    """
    count, kinds = len(places), len(readings[0][1])
    apart = torch.linalg.qr(torch.cat([places.T, torch.randn(CONTEXT, kinds)], dim=1)).Q[:, count:]
    weights, biases = zip(*readings)
    projection = torch.cat([READING * apart @ weight for weight in weights])
    offset = torch.cat([place + READING * apart @ bias for place, bias in zip(places, biases)])
    tensors = {
        "image_proj.proj.weight": projection,
        "image_proj.proj.bias": offset,
        **_norm("image_proj.norm", CONTEXT),
    }
    ordered = sorted(blocks_of(unet), key=lambda block: block.name.startswith("middle_block"))
    for number, block in enumerate(ordered):
        layer = f"ip_adapter.{2 * number + 1}"
        tensors[f"{layer}.to_k_ip.weight"] = block.module.get_parameter("attn2.to_k.weight").detach().clone()
        tensors[f"{layer}.to_v_ip.weight"] = torch.zeros(block.width, CONTEXT)
    return IPAdapter(adapter_file(tensors, "image")).requires_grad_(True)


def new_image_encoder() -> ClipVision:
    """Make a small CLIP vision transformer for pictures of SIZE pixels."""
    width, model = VISION_WIDTH, "vision_model"
    tensors = {
        f"{model}.embeddings.class_embedding": torch.randn(width) * 0.5,
        f"{model}.embeddings.patch_embedding.weight": nn.Conv2d(3, width, PATCH, bias=False).weight.detach(),
        f"{model}.embeddings.position_embedding.weight": torch.randn((SIZE // PATCH) ** 2 + 1, width) * 0.5,
        **_norm(f"{model}.pre_layrnorm", width),
        **_norm(f"{model}.post_layernorm", width),
        **_linear("visual_projection", width, IMAGE_EMBEDS, bias=False),
    }
    for number in range(VISION_LAYERS):
        layer = f"{model}.encoder.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= _linear(f"{layer}.self_attn.{part}", width, width)
        tensors |= _linear(f"{layer}.mlp.fc1", width, 2 * width) | _linear(f"{layer}.mlp.fc2", 2 * width, width)
        tensors |= _norm(f"{layer}.layer_norm1", width) | _norm(f"{layer}.layer_norm2", width)
    return clip_vision(tensors, "image_encoder").requires_grad_(True)


def _linear(name: str, inner: int, outer: int, bias: bool = True) -> dict[str, Tensor]:
    """Return a linear layer's tensors as torch begins with them."""
    layer = nn.Linear(inner, outer, bias=bias)
    return {f"{name}.{part}": value.detach() for part, value in layer.named_parameters()}


def _norm(name: str, width: int) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
