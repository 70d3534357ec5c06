"""IP-Adapter: a picture as a prompt, by a second cross-attention beside the text's (Ye et al., 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from .base import Adapter, Block, Call, Prepared
from .files import AdapterFile
from .weights import Weights, attention, layer_norm, linear

DIM_HEAD = 64
"""Width of a head in the resampler, in all published files."""
_ENCODERS = {
    ("image_embeds", 1024): "ViT-H",
    ("image_embeds", 1280): "ViT-bigG",
    ("hidden_states", 1280): "ViT-H",
    ("hidden_states", 1664): "ViT-bigG",
}


@dataclass(frozen=True)
class Encoder:
    """The CLIP vision encoder an IP-Adapter is told pictures by.

    name: ViT-H, ViT-bigG, or empty for another's. output: image_embeds, (images, width), or hidden_states, the last but
    one layer's, (images, patches + 1, width).
    """

    name: str
    output: str
    width: int


class IPAdapter(Adapter):
    """An IP-Adapter's projection of image features to tokens, and its keys and values for each attention layer."""

    kind = "ip-adapter"

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file.name, file.family, file.tensors)
        self.variant = file.variant

    @property
    def context(self) -> int:
        """Width of the UNet's text contexts that the adapter is made for."""
        return self["ip_adapter.1.to_k_ip"].weight.shape[1]

    @property
    def needs_encoder(self) -> Encoder:
        """What `told` must be given features of."""
        image = self["image_proj"]
        output = "image_embeds" if self.variant == "base" else "hidden_states"
        first = {"base": "proj", "plus": "proj_in", "full": "proj.0"}[self.variant]
        width = image[first].weight.shape[1]
        return Encoder(_ENCODERS.get((output, width), ""), output, width)

    def told(
        self, features_cond: Tensor, features_uncond: Tensor | None = None, strength: float = 1.0, until: float = 1.0
    ) -> ToldPictures:
        """The adapter told pictures.

        features_cond: what the encoder makes of the pictures, (1, ...) for all images of the batch or (images, ...);
        see `needs_encoder`. features_uncond: the same of the zero image, for plus and full (`ClipVision.blank`); base
        takes zeros in place of features by itself. Gradients pass, so it can be trained through.
        """
        if features_uncond is None:
            if self.variant != "base":
                raise AdapterError(f'"{self.name}" needs the features of an empty picture for the negative prompt.')
            features_uncond = torch.zeros_like(features_cond[:1])
        conds, unconds = len(features_cond), len(features_uncond)
        tokens = self.tokens(torch.cat([features_cond, features_uncond]))
        return ToldPictures(self, tokens, conds, unconds, strength, until)

    def tokens(self, features: Tensor) -> Tensor:
        """Image tokens (images, tokens, context width) of the encoder's features."""
        encoder = self.needs_encoder
        dimensions = 2 if encoder.output == "image_embeds" else 3
        if features.ndim != dimensions or features.shape[-1] != encoder.width:
            raise AdapterError(
                f'"{self.name}" needs {encoder.output} of width {encoder.width} and was given {tuple(features.shape)}; '
                f"use its image encoder{f', {encoder.name}' if encoder.name else ''}."
            )
        features = features.to(self.device, self.dtype)
        image = self["image_proj"]
        if self.variant == "base":
            return layer_norm(image["norm"], linear(image["proj"], features).unflatten(-1, (-1, self.context)))
        if self.variant == "full":
            hidden = F.gelu(linear(image["proj.0"], features))
            return layer_norm(image["proj.3"], linear(image["proj.2"], hidden))
        return _resampled(image, features)

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        """The layers are numbered in diffusers' order: all down, then all up, then the middle; odd numbers only."""
        ordered = sorted(blocks, key=lambda block: block.name.startswith("middle_block"))
        own = self["ip_adapter"]
        if len(own._modules) != len(ordered):
            raise self.unfit(f"it has {len(own._modules)} attention layers and the UNet {len(ordered)}")
        found = {}
        for number, block in enumerate(ordered):
            key = str(2 * number + 1)
            if key not in own:
                raise self.unfit(f"it has no attention layer {key}")
            theirs, ours = (block.width, block.context), tuple(own[key].to_k_ip.weight.shape)
            if theirs != ours:
                raise self.unfit(f"its layer {key} is {ours[0]}x{ours[1]} and the UNet's is {theirs[0]}x{theirs[1]}")
            found[block.name] = own[key]
        return found


def _resampled(image: Weights, features: Tensor) -> Tensor:
    """The perceiver resampler of the plus adapters: learnt latents look at the features in a few rounds."""
    x = linear(image["proj_in"], features)
    latents = image.latents.expand(len(x), -1, -1)
    rounds = image["layers"]
    for number in range(len(rounds._modules)):
        attend, forward = rounds[f"{number}.0"], rounds[f"{number}.1"]
        normed = layer_norm(attend["norm2"], latents)
        q = linear(attend["to_q"], normed)
        k, v = linear(attend["to_kv"], torch.cat([layer_norm(attend["norm1"], x), normed], dim=1)).chunk(2, dim=-1)
        latents = latents + linear(attend["to_out"], attention(q, k, v, q.shape[-1] // DIM_HEAD))
        hidden = F.gelu(linear(forward["1"], layer_norm(forward["0"], latents)))
        latents = latents + linear(forward["3"], hidden)
    return layer_norm(image["norm_out"], linear(image["proj_out"], latents))


class ToldPictures(Prepared):
    """An IP-Adapter with its pictures' tokens (conds + unconds, tokens, context width), the negatives' last."""

    attends = True

    def __init__(
        self, adapter: IPAdapter, tokens: Tensor, conds: int, unconds: int, strength: float, until: float
    ) -> None:
        super().__init__(adapter, strength, until)
        self.tokens = tokens
        self.counts = conds, unconds
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def attended(self, layer: Weights | None, block: Block, q: Tensor, call: Call) -> Tensor:
        """strength * softmax(q (K P)^T / sqrt(head)) (V P), P the image tokens of each row."""
        k, v = self._keys_and_values(layer, block, q)
        index = call.index(self.adapter, *self.counts, q.device)
        return self.strength * attention(q, k[index], v[index], block.heads)

    def _keys_and_values(self, layer: Weights, block: Block, q: Tensor) -> tuple[Tensor, Tensor]:
        """They do not depend on the step."""
        kept = self._kept.get(block.name)
        if kept is None or kept[0].dtype != q.dtype or kept[0].device != q.device:
            kept = tuple(linear(part, self.tokens).to(q) for part in (layer.to_k_ip, layer.to_v_ip))
            self._kept[block.name] = kept
        return kept
