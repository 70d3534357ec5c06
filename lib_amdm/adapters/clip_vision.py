"""CLIP's vision encoder in torch alone. IP-Adapters read its output."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..files.container import open_tensor_file
from .inputs import Encoder
from .weights import Weights, attention, layer_norm, linear

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_PUBLISHED_HEADS = {1280: 16, 1664: 16}
"""The number of heads by width, for ViT-H and ViT-bigG; files do not contain it."""

_OPEN_CLIP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
}
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_LAYERS = "vision_model.encoder.layers"
_LAYER = tuple(
    f"{part}.{x}"
    for part in (
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
    )
    for x in ("weight", "bias")
)
_ENDS = (
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight",
    *(f"vision_model.{norm}.{x}" for norm in ("pre_layrnorm", "post_layernorm") for x in ("weight", "bias")),
    "visual_projection.weight",
)


def read_clip_vision(path: str | Path) -> ClipVision:
    """Return the vision encoder in a file in transformers' or open_clip's layout; AdapterError if there is none."""
    file, name = open_tensor_file(path), Path(path).name
    wanted = [key for key in file.shapes if re.search(r"(^|\.)(vision_model|visual_projection|visual)\.", key)]
    return clip_vision(file.read(wanted), name)


def has_vision(names: Iterable[str]) -> bool:
    """Return True if there is a vision encoder among tensors of these names."""
    return any(name.endswith(("vision_model.embeddings.class_embedding", "visual.class_embedding")) for name in names)


def clip_vision(tensors: Mapping[str, Tensor], name: str) -> ClipVision:
    """Build the vision encoder from its tensors; AdapterError, which calls it `name`, if they are not one."""
    named = _transformers_names(tensors)
    layers = {key[len(_LAYERS) + 1 :].split(".")[0] for key in named if key.startswith(f"{_LAYERS}.")}
    wanted = {*_ENDS, *(f"{_LAYERS}.{number}.{part}" for number in layers for part in _LAYER)}
    missing = sorted(wanted - set(named))
    if missing:
        what = "is no CLIP vision encoder" if len(named) < len(_ENDS) else f"lacks tensors (first {missing[0]})"
        raise AdapterError(f'"{name}" {what}; choose the image encoder that the IP-Adapter came with.')
    return ClipVision(name, {key: named[key] for key in sorted(wanted)})


class ClipVision(Weights):
    """A CLIP vision transformer.

    Sizes are read from the weights; ViT-H and ViT-bigG have 16 heads, and any other width has heads of 64. The
    activation is the exact GELU of the encoders that IP-Adapters use. `.to(device, dtype)` as any module.
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.name = name
        patches = self["vision_model.embeddings.patch_embedding"].weight
        self.width, self.patch = patches.shape[0], patches.shape[-1]
        self.size = self.patch * round((len(self["vision_model.embeddings.position_embedding"].weight) - 1) ** 0.5)
        self.heads = _PUBLISHED_HEADS.get(self.width, max(1, self.width // 64))

    def fits(self, encoder: Encoder) -> bool:
        """Return True if this can be the encoder that an IP-Adapter needs."""
        width: int = self["visual_projection"].weight.shape[0] if encoder.output == "image_embeds" else self.width
        return width == encoder.width

    def features(self, pictures: Tensor, encoder: Encoder) -> Tensor:
        """Return an IP-Adapter's features (n, ...) of pictures (n, 3, height, width) with values from 0 to 1.

        AdapterError if this is not the encoder that it needs.
        """
        self._check(encoder)
        return self.encode(self.preprocess(pictures), encoder.output)

    def blank(self, encoder: Encoder) -> Tensor:
        """Return an IP-Adapter's features for the negative prompt, (1, ...).

        They are zeros in place of image_embeds; for hidden_states, the encoder's output for zeros, the mean grey.
        """
        self._check(encoder)
        weight = self["visual_projection"].weight
        if encoder.output == "image_embeds":
            return torch.zeros(1, weight.shape[0], device=weight.device, dtype=weight.dtype)
        return self.encode(torch.zeros(1, 3, self.size, self.size), encoder.output)

    def preprocess(self, pictures: Tensor) -> Tensor:
        """Return pictures (n, 3, height, width), 0 to 1, as the encoder's pixels (n, 3, size, size).

        The short side is scaled to the encoder's size (bicubic), the middle cut out, rounded to 256 levels as pictures
        have, and normalised.
        """
        height, width = pictures.shape[-2:]
        tall, wide = (self.size * side // min(height, width) for side in (height, width))
        x = pictures.float() * 255
        for size in ((height, wide), (tall, wide)):  # across, then down, as Pillow does, which clips in between
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False).round().clamp(0, 255)
        top, left = (tall - self.size) // 2, (wide - self.size) // 2
        x = x[..., top : top + self.size, left : left + self.size] / 255
        mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        return (x - mean) / std

    def encode(self, pixels: Tensor, output: str) -> Tensor:
        """Return the image_embeds (n, projection) of normalised pixels (n, 3, size, size), or their hidden_states.

        The hidden_states are those of the last layer but one, (n, patches + 1, width).
        """
        inner = self["vision_model"]
        places = inner["embeddings"]
        weight = places["patch_embedding"].weight
        x = F.conv2d(pixels.to(weight), weight, stride=self.patch).flatten(2).transpose(1, 2)
        first = places.get_parameter("class_embedding").expand(len(x), 1, -1)
        x = torch.cat([first, x], dim=1) + places["position_embedding"].weight
        x = layer_norm(inner["pre_layrnorm"], x)
        layers = inner["encoder.layers"]
        count = len(layers._modules)
        for number in range(count if output == "image_embeds" else count - 1):
            x = self._layer(layers[str(number)], x)
        if output == "hidden_states":
            return x
        return linear(self["visual_projection"], layer_norm(inner["post_layernorm"], x[:, 0]))

    def _layer(self, layer: Weights, x: Tensor) -> Tensor:
        weights, normed = layer["self_attn"], layer_norm(layer["layer_norm1"], x)
        q, k, v = (linear(weights[f"{part}_proj"], normed) for part in "qkv")
        x = x + linear(weights["out_proj"], attention(q, k, v, self.heads))
        return x + linear(layer["mlp.fc2"], F.gelu(linear(layer["mlp.fc1"], layer_norm(layer["layer_norm2"], x))))

    def _check(self, encoder: Encoder) -> None:
        if not self.fits(encoder):
            needed = f" ({encoder.name})" if encoder.name else ""
            raise AdapterError(
                f'"{self.name}" is not the image encoder that the IP-Adapter needs, whose {encoder.output} are '
                f"{encoder.width} wide{needed}; choose the one it came with."
            )


def _transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the vision encoder's tensors by transformers' names, without the file's own prefix."""
    named: dict[str, Tensor] = {}
    for key, value in tensors.items():
        match = re.search(r"(?:^|\.)((?:vision_model|visual_projection|visual)\..+|visual\.proj)$", key)
        if match:
            named.update(_renamed(match[1], value))
    return named


def _renamed(key: str, value: Tensor) -> dict[str, Tensor]:
    """Return a tensor by its name, or its names, in transformers' layout; empty for one that is not needed."""
    if not key.startswith("visual."):
        return {key: value}
    layer = re.fullmatch(r"visual\.transformer\.resblocks\.(\d+)\.(.+)", key)
    if not layer:
        theirs = next((name for name in _OPEN_CLIP if key.startswith(name)), None)
        if theirs is None:
            return {}
        # open_clip multiplies by its projection from the right
        return {_OPEN_CLIP[theirs] + key[len(theirs) :]: value.T.contiguous() if theirs == "visual.proj" else value}
    start, rest = f"{_LAYERS}.{layer[1]}", layer[2]
    packed = re.fullmatch(r"attn\.in_proj_(weight|bias)", rest)
    if packed:
        parts = zip("qkv", value.chunk(3))
        return {f"{start}.self_attn.{x}_proj.{packed[1]}": part.contiguous() for x, part in parts}
    part, _, kind = rest.rpartition(".")
    return {f"{start}.{_OPEN_CLIP_LAYER.get(part, part)}.{kind}": value}
