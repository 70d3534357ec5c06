"""A Stable Diffusion UNet in ldm's layout for tests: as A1111 has it, or as Forge has it, which adds in place."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        projected = self.to_q(x), self.to_k(context), self.to_v(context)
        split = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in projected)
        return self.to_out(F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class Geglu(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class BasicTransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int, in_place: bool) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = nn.Sequential(
            OrderedDict(net=nn.Sequential(Geglu(width), nn.Dropout(0.0), nn.Linear(4 * width, width)))
        )
        self.attn2 = Attention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.in_place = in_place

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        if self.in_place:
            x = x.clone()
            x += self.attn1(self.norm1(x))
            x += self.attn2(self.norm2(x), context=context)
            x += self.ff(self.norm3(x))
            return x
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    """SDXL has more blocks than one, and linear layers about them."""

    def __init__(self, width: int, context: int, heads: int, depth: int, linear: bool, in_place: bool) -> None:
        super().__init__()
        self.linear = linear
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)
        blocks = [BasicTransformerBlock(width, context, heads, in_place) for _ in range(depth)]
        self.transformer_blocks = nn.ModuleList(blocks)
        self.proj_out = nn.Linear(width, width) if linear else nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm(x) if self.linear else self.proj_in(self.norm(x))
        tokens = h.flatten(2).transpose(1, 2).contiguous()
        tokens = self.proj_in(tokens) if self.linear else tokens
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        tokens = self.proj_out(tokens) if self.linear else tokens
        h = tokens.transpose(1, 2).reshape(h.shape)
        return (h if self.linear else self.proj_out(h)) + x


class ResBlock(nn.Module):
    def __init__(self, width: int, out: int, embedding: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Sequence(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            more = [emb] if isinstance(layer, ResBlock) else [context] if isinstance(layer, SpatialTransformer) else []
            x = layer(x, *more)
        return x


class LdmUnet(nn.Module):
    """depths: how many transformer blocks a level's layers have. heads: how many, at each level.

    Called as A1111 and Forge call theirs: (x, timesteps, context).
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        context: int,
        heads: tuple[int, ...],
        layers: int = 2,
        linear: bool = False,
        in_place: bool = False,
    ) -> None:
        super().__init__()
        first, embedding = widths[0], 4 * widths[0]
        self.first = first
        self.time_embed = nn.Sequential(nn.Linear(first, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        def attention(level: int, always: bool = False) -> list[SpatialTransformer]:
            depth = depths[level] or (1 if always else 0)
            return [SpatialTransformer(widths[level], context, heads[level], depth, linear, in_place)] if depth else []

        blocks, skips, now = [Sequence(nn.Conv2d(4, first, 3, padding=1))], [first], first
        for level, width in enumerate(widths):
            for _ in range(layers):
                own = [ResBlock(now, width, embedding), *attention(level)]
                blocks.append(Sequence(*own))
                skips.append(now := width)
            if level < len(widths) - 1:
                halved = nn.Sequential(OrderedDict(op=nn.Conv2d(now, now, 3, stride=2, padding=1)))
                blocks.append(Sequence(halved))
                skips.append(now)
        self.input_blocks = nn.ModuleList(blocks)
        middle = attention(len(widths) - 1, always=True)
        self.middle_block = Sequence(ResBlock(now, now, embedding), *middle, ResBlock(now, now, embedding))
        blocks = []
        for level, width in reversed(list(enumerate(widths))):
            for number in range(layers + 1):
                own = [ResBlock(now + skips.pop(), width, embedding), *attention(level)]
                now = width
                doubled = OrderedDict(up=nn.Upsample(scale_factor=2), conv=nn.Conv2d(width, width, 3, padding=1))
                blocks.append(Sequence(*own, *([nn.Sequential(doubled)] if level and number == layers else [])))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), nn.Conv2d(now, 4, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        half = self.first // 2
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        kept = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            kept.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), emb, context)
        return self.out(x)
