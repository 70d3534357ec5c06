"""GLIGEN: phrases in boxes, by a gated self-attention over the picture and its grounding tokens (Li et al., 2023)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..families import TEXT_WIDTHS
from ..layout import Layout
from .base import Adapter, AdapterInfo, Block, Call, Prepared, Room, Shapes, refused
from .inputs import Inputs
from .names import ldm_names, without_prefix
from .weights import Weights, attention, box_embedding, layer_norm, linear, silu_mlp

SLOTS = 30
"""The number of boxes, or interactions, that the published models were trained with."""
NULL_PHRASE = "position_net.null_positive_feature"
MLP = tuple(f"{number}.{part}" for number in (0, 2, 4) for part in ("weight", "bias"))
"""The tensors of `weights.silu_mlp`."""
_FUSER = (
    "alpha_attn", "alpha_dense", "linear.weight", "linear.bias", "attn.to_q.weight", "attn.to_k.weight",
    "attn.to_v.weight", "attn.to_out.0.weight", "attn.to_out.0.bias", "ff.net.0.proj.weight", "ff.net.0.proj.bias",
    "ff.net.2.weight", "ff.net.2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
)  # fmt: skip
_ACTIONS = "position_net.linear_action.0.weight"


class Grounding(Adapter):
    """The common part of GLIGEN and InteractDiffusion: grounding tokens, and a fuser in every transformer block.

    Its tensors are `position_net.*` and `<block>.fuser.*`, with `<block>` as `attach.blocks_of` names blocks.
    """

    has_actions: ClassVar[bool]
    """True for the kind whose files have a net for actions."""
    position_net_tensors: ClassVar[tuple[str, ...]]
    """The tensors of the position net."""

    @classmethod
    def recognise(cls, shapes: Shapes, name: str) -> AdapterInfo | None:
        shapes = {without_prefix(key): shape for key, shape in shapes.items()}
        positioned = any(key.startswith("position_net.") for key in shapes)
        fused = any(".fuser." in key for key in shapes)
        if (not positioned and not fused) or (_ACTIONS in shapes) != cls.has_actions:
            return None
        if not positioned:
            raise refused(name, "has a GLIGEN file's fusers but no position net; download it again")
        first = shapes.get("input_blocks.0.0.weight", shapes.get("conv_in.weight"))
        if first is not None and first[1] != 4:
            raise refused(
                name,
                "is a GLIGEN file for inpainting, which AMDM cannot run; choose the one for generation with text boxes",
            )
        if "position_net.linears_text.0.weight" in shapes:
            raise refused(name, "is a GLIGEN file for text and pictures; choose the one for text boxes alone")
        if not cls.has_actions and NULL_PHRASE not in shapes:
            raise refused(
                name, "is a GLIGEN file for keypoints or maps, which AMDM cannot run; choose the one for text boxes"
            )
        if not fused:
            raise refused(name, "has a GLIGEN file's position net but no fusers; download it again")
        family = TEXT_WIDTHS.get(shapes[NULL_PHRASE][0], "SD1") if NULL_PHRASE in shapes else "SD1"
        if family != "SD1":
            raise refused(name, f"is for {family}; only SD1's GLIGEN and InteractDiffusion files can be run")
        return AdapterInfo(cls.kind, family, cls.variant_of(name), name)

    @classmethod
    @abstractmethod
    def variant_of(cls, name: str) -> str:
        """Return the variant of a file of this name."""

    @classmethod
    def rename(cls, names: Iterable[str]) -> dict[str, str]:
        renamed = ldm_names(names).items()
        return {name: ours for name, ours in renamed if ours.startswith("position_net.") or ".fuser." in ours}

    @classmethod
    def required(cls, variant: str, names: Collection[str]) -> Iterable[str]:
        blocks = {name.split(".fuser.")[0] for name in names if ".fuser." in name}
        return [
            *(f"{block}.fuser.{part}" for block in blocks for part in _FUSER),
            *(f"position_net.{part}" for part in cls.position_net_tensors),
        ]

    @classmethod
    def adjust(cls, name: str, tensor: Tensor) -> Tensor:
        """Return gates as scalars: a converter may have given them a dimension."""
        return tensor.reshape(()) if ".alpha_" in name else tensor

    @property
    def phrase_width(self) -> int:
        """The width of the phrases' embeddings: the pooler output of the checkpoint's CLIP text encoder."""
        return self.get_parameter(NULL_PHRASE).shape[0]

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        fusers = {name.removesuffix(".fuser") for name, _ in self.named_modules() if name.endswith(".fuser")}
        theirs = {block.name for block in blocks}
        if fusers != theirs:
            raise self.mismatch(
                f"it has fusers for {len(fusers)} blocks, {len(fusers & theirs)} of the UNet's {len(theirs)}"
            )
        layers = {block.name: self[f"{block.name}.fuser"] for block in blocks}
        for block in blocks:
            width = layers[block.name]["linear"].weight.shape[0]
            if width != block.width:
                raise self.mismatch(f"its fuser of {block.name} is {width} wide and the block {block.width}")
        return layers

    def prepare(self, inputs: Inputs) -> PreparedGrounding:
        """Return the adapter with the tokens of the layouts, whose texts are encoded as CLIP's pooled embeddings."""
        layouts = inputs.layouts
        pooled = inputs.pooled(list(dict.fromkeys(text for layout in layouts for text in self.texts(layout))))
        tokens = torch.stack([self.tokens(layout, pooled) for layout in layouts])
        return PreparedGrounding(self, tokens, self.tokens(Layout(), {})[None], inputs.strength, inputs.until)

    @abstractmethod
    def texts(self, layout: Layout) -> Sequence[str]:
        """Return the texts of a layout whose pooled embeddings `tokens` needs."""

    @abstractmethod
    def tokens(self, layout: Layout, pooled: Mapping[str, Tensor]) -> Tensor:
        """Return the grounding tokens (tokens, width) of a layout; negative prompts get those of the empty one.

        pooled: the pooled embedding (width,) of each text of `texts(layout)`.
        """

    def embeddings(self, pooled: Mapping[str, Tensor], texts: Sequence[str]) -> Tensor:
        """Return the pooled embeddings (texts, width) of these texts; AdapterError for another width."""
        embeddings = [pooled[text].reshape(-1) for text in texts]
        bad = next((embedding for embedding in embeddings if len(embedding) != self.phrase_width), None)
        if bad is not None:
            raise AdapterError(
                f'"{self.name}" needs phrases of width {self.phrase_width} and the text encoder gives {len(bad)}; '
                "use an adapter made for the checkpoint's family."
            )
        return torch.stack(embeddings).to(self.device, self.dtype)


class Gligen(Grounding):
    """GLIGEN for text boxes. It ignores interactions. Its published runs act in the first 0.3 of the steps."""

    kind = "gligen"
    title = "GLIGEN"
    folders = "gligen"
    has_actions = False
    position_net_tensors = (*(f"linears.{part}" for part in MLP), "null_positive_feature", "null_position_feature")

    @classmethod
    def variant_of(cls, name: str) -> str:
        return "text"

    @classmethod
    def room(cls, variant: str) -> Room:
        return Room(boxes=SLOTS)

    def texts(self, layout: Layout) -> Sequence[str]:
        return layout.phrases

    def tokens(self, layout: Layout, pooled: Mapping[str, Tensor]) -> Tensor:
        """Return grounding tokens (30, width): the boxes', then the learnt empty one's.

        More than 30 boxes raise AdapterError.
        """
        count = len(layout.regions)
        if count > SLOTS:
            raise AdapterError(f'"{self.name}" takes {SLOTS} boxes and the layout has {count}; remove some.')
        net = self["position_net"]
        words = net.get_parameter("null_positive_feature").expand(SLOTS, -1)
        places = net.get_parameter("null_position_feature").expand(SLOTS, -1)
        if count:
            embeddings = self.embeddings(pooled, layout.phrases)
            boxes = box_embedding(torch.tensor([region.box for region in layout.regions], device=self.device))
            words = torch.cat([embeddings, words[count:]])
            places = torch.cat([boxes.to(self.dtype), places[count:]])
        return silu_mlp(net["linears"], torch.cat([words, places], dim=-1))


class PreparedGrounding(Prepared):
    """Fusers with their grounding tokens.

    tokens: (1 or images, tokens, width).
    empty: (1, tokens, width), for rows of negative prompts, on which fusers act too.
    """

    def __init__(self, adapter: Grounding, tokens: Tensor, empty: Tensor, strength: float, until: float) -> None:
        super().__init__(adapter, strength, until)
        self.tokens = torch.cat([tokens, empty])
        self.counts = len(tokens), len(empty)
        self._kept: dict[str, Tensor] = {}

    def fused(self, layer: Weights, block: Block, x: Tensor, call: Call) -> Tensor:
        """Return the fuser's addition to `x`, both (rows, tokens, width)."""
        if block.name not in self._kept:
            self._kept[block.name] = linear(layer["linear"], self.tokens)
        tokens = self._kept[block.name][call.index(self.adapter, *self.counts, x.device)]
        return gated_self_attention(layer, x.to(tokens.dtype), tokens, block.heads, self.strength)


def gated_self_attention(layer: Weights, x: Tensor, tokens: Tensor, heads: int, strength: float) -> Tensor:
    """Return the fuser's addition (batch, n, width) to x (batch, n, width), given tokens (batch, m, width).

    y = x + s tanh(alpha_attn) Attn(LN1([x; tokens]))[:n]; then s tanh(alpha_dense) FF(LN2(y)), FF with GEGLU.
    """
    both = layer_norm(layer["norm1"], torch.cat([x, tokens], dim=1))
    weights = layer["attn"]
    # queries come from image tokens only; grounding tokens are keys and values
    q = linear(weights["to_q"], both[:, : x.shape[1]])
    seen = linear(
        weights["to_out.0"], attention(q, linear(weights["to_k"], both), linear(weights["to_v"], both), heads)
    )
    added = strength * layer.get_parameter("alpha_attn").tanh() * seen
    value, gate = linear(layer["ff.net.0.proj"], layer_norm(layer["norm2"], x + added)).chunk(2, dim=-1)
    dense = linear(layer["ff.net.2"], value * F.gelu(gate))
    return added + strength * layer.get_parameter("alpha_dense").tanh() * dense
