"""GLIGEN: phrases in boxes, by a gated self-attention over the picture and its grounding tokens (Li et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..layout import Layout
from .base import Adapter, Block, Call, Prepared
from .files import AdapterFile
from .weights import Weights, attention, box_embedding, layer_norm, linear, silu_mlp

SLOTS = 30
"""How many boxes, or interactions, the published models were trained with."""


class Grounding(Adapter):
    """What GLIGEN and InteractDiffusion share: grounding tokens, and a fuser in every transformer block."""

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file.name, file.family, file.tensors)

    @property
    def phrase_width(self) -> int:
        """Width of the phrases' embeddings: the pooler output of the checkpoint's CLIP text encoder."""
        return self["position_net"].null_positive_feature.shape[0]

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        own = {name.removesuffix(".fuser") for name, _ in self.named_modules() if name.endswith(".fuser")}
        theirs = {block.name for block in blocks}
        if own != theirs:
            raise self.unfit(f"it has fusers for {len(own)} blocks, {len(own & theirs)} of the UNet's {len(theirs)}")
        found = {block.name: self[f"{block.name}.fuser"] for block in blocks}
        for block in blocks:
            width = found[block.name]["linear"].weight.shape[0]
            if width != block.width:
                raise self.unfit(f"its fuser of {block.name} is {width} wide and the block {block.width}")
        return found

    def _phrases(self, told: Mapping[str, Tensor], words: Sequence[str]) -> Tensor:
        """The pooled embeddings (words, width) of these words."""
        found = [told[word].reshape(-1) for word in words]
        odd = next((each for each in found if len(each) != self.phrase_width), None)
        if odd is not None:
            raise AdapterError(
                f'"{self.name}" needs phrases of width {self.phrase_width} and the text encoder gives {len(odd)}; '
                "use an adapter made for the checkpoint's family."
            )
        return torch.stack(found).to(self.device, self.dtype)

    def tokens(self, layout: Layout, phrases: Mapping[str, Tensor]) -> Tensor:
        """Grounding tokens (tokens, width) of a layout; those of the empty one are what negative prompts see."""
        raise NotImplementedError

    def _grounded(
        self, layouts: Sequence[Layout], phrases: Mapping[str, Tensor], strength: float, until: float
    ) -> ToldGrounding:
        tokens = torch.stack([self.tokens(layout, phrases) for layout in layouts])
        return ToldGrounding(self, tokens, self.tokens(Layout(), {})[None], strength, until)


class Gligen(Grounding):
    """GLIGEN for text boxes."""

    kind = "gligen"

    def phrases(self, layout: Layout) -> list[str]:
        """The texts whose pooled embeddings `told` needs."""
        return list(dict.fromkeys(layout.phrases))

    def told(
        self,
        layouts: Sequence[Layout],
        phrases: Mapping[str, Tensor],
        strength: float = 1.0,
        until: float = 0.3,
    ) -> ToldGrounding:
        """The adapter told where things stand.

        layouts: one for all images of the batch, or one for each; interactions say nothing to it. phrases: CLIP's
        pooled embedding (width,) of each text of `phrases(layout)`. More than 30 boxes raise AdapterError.
        """
        return self._grounded(layouts, phrases, strength, until)

    def tokens(self, layout: Layout, phrases: Mapping[str, Tensor]) -> Tensor:
        """Grounding tokens (30, width): the boxes', then the learnt empty one's."""
        count = len(layout.regions)
        if count > SLOTS:
            raise AdapterError(f'"{self.name}" takes {SLOTS} boxes and the layout has {count}; remove some.')
        net = self["position_net"]
        words = net.null_positive_feature.expand(SLOTS, -1)
        places = net.null_position_feature.expand(SLOTS, -1)
        if count:
            told = self._phrases(phrases, layout.phrases)
            boxes = box_embedding(torch.tensor([region.box for region in layout.regions], device=self.device))
            words = torch.cat([told, words[count:]])
            places = torch.cat([boxes.to(self.dtype), places[count:]])
        return silu_mlp(net["linears"], torch.cat([words, places], dim=-1))


class ToldGrounding(Prepared):
    """Fusers with their grounding tokens. Rows of negative prompts see the empty tokens; the fuser acts on them too."""

    def __init__(self, adapter: Grounding, tokens: Tensor, empty: Tensor, strength: float, until: float) -> None:
        super().__init__(adapter, strength, until)
        self.tokens = torch.cat([tokens, empty])
        self.counts = len(tokens), len(empty)
        self._kept: dict[str, Tensor] = {}

    def fused(self, layer: Weights | None, block: Block, x: Tensor, call: Call) -> Tensor:
        if block.name not in self._kept:
            self._kept[block.name] = linear(layer["linear"], self.tokens)
        tokens = self._kept[block.name][call.index(self.adapter, *self.counts, x.device)]
        return gated_self_attention(layer, x.to(tokens.dtype), tokens, block.heads, self.strength)


def gated_self_attention(layer: Weights, x: Tensor, tokens: Tensor, heads: int, strength: float) -> Tensor:
    """What the fuser adds to x (batch, n, width), given tokens (batch, m, width).

    y = x + s tanh(alpha_attn) Attn(LN1([x; tokens]))[:n]; then s tanh(alpha_dense) FF(LN2(y)), FF with GEGLU.
    """
    both = layer_norm(layer["norm1"], torch.cat([x, tokens], dim=1))
    own = layer["attn"]
    # only the picture's own tokens ask; those of the boxes are looked at
    q = linear(own.to_q, both[:, : x.shape[1]])
    seen = linear(own["to_out.0"], attention(q, linear(own.to_k, both), linear(own.to_v, both), heads))
    added = strength * layer.alpha_attn.tanh() * seen
    value, gate = linear(layer["ff.net.0.proj"], layer_norm(layer["norm2"], x + added)).chunk(2, dim=-1)
    return added + strength * layer.alpha_dense.tanh() * linear(layer["ff.net.2"], value * F.gelu(gate))
