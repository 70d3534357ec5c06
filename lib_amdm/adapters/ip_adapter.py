"""IP-Adapter: a picture as a prompt, by a second cross-attention in addition to the text's (Ye et al., 2023)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..families import TEXT_WIDTHS
from .base import Adapter, AdapterInfo, Block, Call, Prepared, Shapes, refused
from .inputs import Encoder, Inputs
from .weights import Weights, attention, layer_norm, linear

DIM_HEAD = 64
"""Width of a head in the resampler, in all published files."""
_ENCODERS = {
    ("image_embeds", 1024): "ViT-H",
    ("image_embeds", 1280): "ViT-bigG",
    ("hidden_states", 1280): "ViT-H",
    ("hidden_states", 1664): "ViT-bigG",
}


_IMAGE_PROJ = {
    "base": ("proj.weight", "proj.bias", "norm.weight", "norm.bias"),
    "full": tuple(f"proj.{number}.{part}" for number in (0, 2, 3) for part in ("weight", "bias")),
    "plus": (
        "latents",
        *(f"{name}.{part}" for name in ("proj_in", "proj_out", "norm_out") for part in ("weight", "bias")),
    ),
}
_RESAMPLER_LAYER = (
    "0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias", "0.to_q.weight", "0.to_kv.weight",
    "0.to_out.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight",
)  # fmt: skip


class IPAdapter(Adapter):
    """An IP-Adapter's projection of image features to tokens, and its keys and values for each attention layer.

    Its tensors are `image_proj.*` and `ip_adapter.<2n+1>.to_k_ip.weight`, `.to_v_ip.weight`.
    """

    kind = "ip-adapter"
    title = "IP-Adapter"
    takes_image = True
    folders = "ip[-_ ]?adapter"

    @classmethod
    def recognise(cls, shapes: Shapes, name: str) -> AdapterInfo | None:
        """Return the description; the variants are base, plus and full."""
        shapes = {_renamed(key): shape for key, shape in shapes.items()}
        parts = {part: [key for key in shapes if key.startswith(f"{part}.")] for part in ("image_proj", "ip_adapter")}
        if not any(parts.values()):
            return None
        image = {key.removeprefix("image_proj."): shapes[key] for key in parts["image_proj"]}
        faces = any(re.match(r"ip_adapter\.\d+\.to_\w+_lora\.", key) for key in shapes)
        portrait = "proj.2.weight" in image and "proj.3.weight" not in image
        if faces or portrait or any("perceiver" in key for key in image):
            raise refused(
                name,
                "needs a face's features (FaceID, Portrait), which AMDM has not; choose a plain, plus or full-face one",
            )
        if "latents" in image and image.get("proj_in.weight", (0, 0))[1] == 512:
            raise refused(
                name, "is an InstantID file, which AMDM cannot run; choose a plain, plus or full-face IP-Adapter"
            )
        first = shapes.get("ip_adapter.1.to_k_ip.weight")
        if first is None or not image:
            raise refused(name, "is an IP-Adapter without all its parts; download it again")
        family = TEXT_WIDTHS.get(first[1], "SD1")
        if family == "SD2":
            raise refused(name, "is an IP-Adapter for SD2; choose one for SD1 or SDXL")
        variant = "full" if "proj.3.weight" in image else "plus" if "latents" in image else "base"
        if variant == "base" and "proj.weight" not in image:
            raise refused(
                name, "is an IP-Adapter of a kind that AMDM does not know; choose a plain, plus or full-face one"
            )
        return AdapterInfo(cls.kind, family, variant, name)

    @classmethod
    def rename(cls, names: Iterable[str]) -> dict[str, str]:
        renamed = {name: _renamed(name) for name in names}
        return {name: ours for name, ours in renamed.items() if re.match(r"(image_proj|ip_adapter)\.", ours)}

    @classmethod
    def required(cls, variant: str, names: Collection[str]) -> Iterable[str]:
        layers = {name.split(".")[1] for name in names if name.startswith("ip_adapter.")}
        rounds = {name.split(".")[2] for name in names if name.startswith("image_proj.layers.")}
        return [
            *(f"ip_adapter.{number}.{part}.weight" for number in layers for part in ("to_k_ip", "to_v_ip")),
            *(f"image_proj.{part}" for part in _IMAGE_PROJ[variant]),
            *(f"image_proj.layers.{number}.{part}" for number in rounds for part in _RESAMPLER_LAYER),
        ]

    @property
    def context(self) -> int:
        """The width of the UNet's text contexts that the adapter is made for."""
        return self["ip_adapter.1.to_k_ip"].weight.shape[1]

    @property
    def needs_encoder(self) -> Encoder:
        """The encoder whose features the adapter reads."""
        image = self["image_proj"]
        output = "image_embeds" if self.variant == "base" else "hidden_states"
        first = {"base": "proj", "plus": "proj_in", "full": "proj.0"}[self.variant]
        width = image[first].weight.shape[1]
        return Encoder(_ENCODERS.get((output, width), ""), output, width)

    def prepare(self, inputs: Inputs) -> PreparedPictures:
        """Return the adapter with the reference pictures; see `needs_encoder`.

        Base reads zeros for the negative prompt, plus and full the features of an empty picture.
        """
        features = inputs.features(self.needs_encoder)
        blank = features.blank
        if blank is None:
            if self.variant != "base":
                raise AdapterError(f'"{self.name}" needs the features of an empty picture for the negative prompt.')
            blank = torch.zeros_like(features.pictures[:1])
        tokens = self.tokens(torch.cat([features.pictures, blank]))
        return PreparedPictures(self, tokens, len(features.pictures), len(blank), inputs.strength, inputs.until)

    def tokens(self, features: Tensor) -> Tensor:
        """Return image tokens (images, tokens, context width) of the encoder's features (images, ...)."""
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
        """Return the layers, which files number oddly and in diffusers' order: down, then up, then middle."""
        ordered = sorted(blocks, key=lambda block: block.name.startswith("middle_block"))
        weights = self["ip_adapter"]
        if len(weights._modules) != len(ordered):
            raise self.mismatch(f"it has {len(weights._modules)} attention layers and the UNet {len(ordered)}")
        layers = {}
        for number, block in enumerate(ordered):
            key = str(2 * number + 1)
            if key not in weights:
                raise self.mismatch(f"it has no attention layer {key}")
            theirs, ours = (block.width, block.context), tuple(weights[f"{key}.to_k_ip"].weight.shape)
            if theirs != ours:
                raise self.mismatch(f"its layer {key} is {ours[0]}x{ours[1]} and the UNet's is {theirs[0]}x{theirs[1]}")
            layers[block.name] = weights[key]
        return layers


def _renamed(name: str) -> str:
    """Return the name in a published file for the one in a training run's raw checkpoint."""
    return re.sub(r"^adapter_modules\.", "ip_adapter.", re.sub(r"^image_proj_model\.", "image_proj.", name))


def _resampled(image: Weights, features: Tensor) -> Tensor:
    """Return the plus adapters' tokens (images, tokens, width): learnt latents attend to the features, repeatedly."""
    x = linear(image["proj_in"], features)
    latents = image.get_parameter("latents").expand(len(x), -1, -1)
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


class PreparedPictures(Prepared):
    """An IP-Adapter with its pictures' tokens (conds + unconds, tokens, context width), the negatives' last."""

    attends = True

    def __init__(
        self, adapter: IPAdapter, tokens: Tensor, conds: int, unconds: int, strength: float, until: float
    ) -> None:
        super().__init__(adapter, strength, until)
        self.tokens = tokens
        self.counts = conds, unconds
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def attended(self, layer: Weights, block: Block, q: Tensor, call: Call) -> Tensor:
        """Return strength * softmax(q (K P)^T / sqrt(head)) (V P), P the image tokens of each row."""
        k, v = self._keys_and_values(layer, block, q)
        index = call.index(self.adapter, *self.counts, q.device)
        return self.strength * attention(q, k[index], v[index], block.heads)

    def _keys_and_values(self, layer: Weights, block: Block, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return them for all tokens, (conds + unconds, tokens, width) each; they are the same in every step."""
        pair = self._kept.get(block.name)
        if pair is None or pair[0].dtype != q.dtype or pair[0].device != q.device:
            pair = linear(layer["to_k_ip"], self.tokens).to(q), linear(layer["to_v_ip"], self.tokens).to(q)
            self._kept[block.name] = pair
        return pair
