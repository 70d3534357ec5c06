"""MIGC: several things in their boxes, by shading each one's cross-attention and aggregating (Zhou et al., 2024).

NaiveFuser is its parameterless companion, for the layers and steps in which MIGC itself does not act; MIGC++ refines
NaiveFuser's result with what it learnt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..layout import Box, Layout
from .base import Adapter, Attend, Block, Call, Prepared
from .files import AdapterFile
from .weights import Weights, attention, box_embedding, layer_norm, linear, silu_mlp

UNTIL = 26 / 50
"""The published runs' share of steps: 0 to 25 of 50."""
INSIDE = 10.0
"""How much more than the whole picture's an instance's attention counts within its box, to NaiveFuser."""


@dataclass(frozen=True)
class Instances:
    """One image's things: their boxes and what these are to the position net (n, numbers), pooled phrases (n, width)
    and whole text contexts, n of (length, width)."""

    boxes: tuple[Box, ...]
    places: Tensor
    pooled: Tensor
    contexts: tuple[Tensor, ...]
    seed: int


class Migc(Adapter):
    """MIGC or MIGC++, whichever layers the file has: the middle and the lowest output ones in the published files."""

    kind = "migc"

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file.name, file.family, file.tensors)
        self.plus = file.variant == "migc++"
        self._own = {
            name.removesuffix(".migc"): module for name, module in self.named_modules() if name.endswith(".migc")
        }

    @property
    def slots(self) -> int:
        """How many instances there can be: 28 in MIGC, 29 in MIGC++."""
        channels = next(iter(self._own.values()))["sac.cbam2.ChannelGate.mlp.1"].weight.shape[1]
        return channels - (1 if self.plus else 2)

    @property
    def phrase_width(self) -> int:
        """Width of the phrases' pooled embeddings."""
        return next(iter(self._own.values()))["ea.to_k"].weight.shape[1]

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        theirs = {block.name: block for block in blocks}
        for name, layer in self._own.items():
            if name not in theirs:
                raise self.unfit(f"the UNet has no {name}")
            width = layer["norm"].weight.shape[0]
            if width != theirs[name].width:
                raise self.unfit(f"its layer of {name} is {width} wide and the block {theirs[name].width}")
        return dict(self._own)

    def phrases(self, layout: Layout) -> list[str]:
        """The texts whose pooled embeddings and contexts `told` needs."""
        return list(dict.fromkeys(layout.phrases))

    def told(
        self,
        layouts: Sequence[Layout],
        phrases: Mapping[str, Tensor],
        contexts: Mapping[str, Tensor],
        strength: float = 1.0,
        until: float = UNTIL,
        naive_until: float | None = None,
        seeds: Sequence[int] = (0,),
    ) -> ToldInstances:
        """The adapter told where things stand.

        layouts: one for all images of the batch, or one for each; interactions say nothing to it. phrases: CLIP's
        pooled embedding (width,) of each text of `phrases(layout)`. contexts: the same texts encoded as prompts, each
        (length, context width), as the UNet is told them. naive_until: the share of steps in which NaiveFuser acts
        wherever MIGC does not; if not said none in MIGC, and `until` in MIGC++, whose published runs have 1.0. seeds:
        one for all images or one for each; the order in which MIGC's aggregation sees the instances is drawn from it
        and the step, never from torch's own generator.
        """
        if naive_until is None:
            naive_until = until if self.plus else 0.0
        count = max(len(layouts), len(seeds))
        for what in (layouts, seeds):
            if len(what) not in (1, count):
                raise ValueError(f"{len(layouts)} layouts and {len(seeds)} seeds are not of one batch")
        layouts = [*layouts] * (count if len(layouts) == 1 else 1)
        seeds = [*seeds] * (count if len(seeds) == 1 else 1)
        images = tuple(self._instances(layout, phrases, contexts, seed) for layout, seed in zip(layouts, seeds))
        return ToldInstances(self, images, strength, until, naive_until)

    def _instances(
        self, layout: Layout, phrases: Mapping[str, Tensor], contexts: Mapping[str, Tensor], seed: int
    ) -> Instances:
        count = len(layout.regions)
        if count > self.slots:
            raise AdapterError(f'"{self.name}" takes {self.slots} boxes and the layout has {count}; remove some.')
        words = layout.phrases
        pooled = [phrases[word].reshape(-1) for word in words]
        odd = next((each for each in pooled if len(each) != self.phrase_width), None)
        if odd is not None:
            raise self.unfit(f"it needs phrases of width {self.phrase_width} and the text encoder gives {len(odd)}")
        boxes = tuple(region.box for region in layout.regions)
        places = box_embedding(torch.tensor([(x0, x1, y0, y1) for x0, y0, x1, y1 in boxes]).view(-1, 4))
        return Instances(
            boxes,
            places.to(self.device, self.dtype),
            torch.stack(pooled).to(self.device, self.dtype) if pooled else torch.zeros(0, self.phrase_width),
            tuple(contexts[word] for word in words),
            seed,
        )


class ToldInstances(Prepared):
    """MIGC with what stands where in each image, or in all of them. Rows of negative prompts are left alone."""

    def __init__(
        self, adapter: Migc, images: tuple[Instances, ...], strength: float, until: float, naive_until: float
    ) -> None:
        super().__init__(adapter, strength, max(until, naive_until))
        self.images = images
        self.migc_until = until
        self.naive_until = naive_until
        self._masks: dict[tuple, Tensor] = {}

    def replaced(
        self, layer: Weights | None, block: Block, h: Tensor, out: Tensor, call: Call, attend: Attend
    ) -> Tensor | None:
        shading = layer is not None and self.before(call.rows.progress, self.migc_until)
        if not shading and not self.before(call.rows.progress, self.naive_until):
            return None
        grid = call.grid(h.shape[1])
        fused = out.clone()
        for row, (image, prompt) in enumerate(zip(call.rows.images, call.rows.prompts)):
            instances = _visible(self.images[self.adapter.place(image, len(self.images))], call.latent)
            if not prompt or not instances.boxes:
                continue
            masks = self._masks_of(instances, call.latent, grid, h.device)
            each = torch.cat([out[row : row + 1], *_attended(attend, row, instances.contexts)])
            if shading:
                order = slot_order(instances.seed, call.rows.progress, block.name, self.adapter.slots)
                new = self._shaded(layer, block, h[row], each, masks, instances, grid, order)
            else:
                new = naive_fuser(each, masks)
            fused[row] = new if self.strength == 1 else torch.lerp(out[row], new.to(out.dtype), self.strength)
        return fused

    def _shaded(
        self,
        layer: Weights,
        block: Block,
        h: Tensor,
        each: Tensor,
        masks: Tensor,
        instances: Instances,
        grid: tuple[int, int],
        order: Sequence[int],
    ) -> Tensor:
        """One image's cross-attention (tokens, width): its input h, and what it gave with each context, the whole's
        first, (1 + n, tokens, width)."""
        dtype = self.adapter.dtype
        h, each, masks = h.to(dtype), each.to(dtype), masks.to(dtype)
        tokens = _box_tokens(layer, instances)
        asked = layer["ea"]
        q = linear(asked.to_q, layer_norm(layer["norm"], h)).expand(len(instances.boxes), -1, -1)
        own = attention(q, linear(asked.to_k, tokens), linear(asked.to_v, tokens), block.heads)
        own = masks[1:, :, None] * linear(asked["to_out.0"], own)
        whole = _layout_attention(layer["la"], h, masks, block.heads)
        if self.adapter.plus:
            learnt = _aggregated(layer["sac"], torch.cat([own, whole[None]]), None, grid, order)
            return naive_fuser(each, masks) + layer.gamma.tanh() * learnt
        phases = torch.cat([masks[:, :, None] * each, whole[None]])
        phases[1:-1] += own
        guides = torch.cat([masks, torch.ones_like(masks[:1])])
        return _aggregated(layer["sac"], phases, guides, grid, order)

    def _masks_of(
        self, instances: Instances, latent: tuple[int, int], grid: tuple[int, int], device: torch.device
    ) -> Tensor:
        key = (instances.boxes, latent, grid, device)
        if key not in self._masks:
            self._masks[key] = box_masks(instances.boxes, latent, grid).to(device)
        return self._masks[key]


def box_masks(boxes: Sequence[Box], latent: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """What is in no box, then each box, as shares of the tokens of a layer's grid: (1 + n, tokens), float32.

    Drawn in the picture's pixels, then made smaller twice: to the latents, to the grid. The edges' values depend on it.
    """
    masks = torch.zeros(len(boxes), *(8 * size for size in latent))
    for mask, box in zip(masks, boxes):
        mask[_pixels(box, latent)] = 1
    rest = 1 - masks.sum(dim=0, keepdim=True).clamp(max=1)
    both = torch.cat([rest, masks])[None]
    for size in (latent, grid):
        both = F.interpolate(both, size=size, mode="bilinear")
    return both[0].flatten(1)


def _pixels(box: Box, latent: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the picture that a box covers."""
    height, width = (8 * size for size in latent)
    x0, y0, x1, y1 = box
    return slice(int(height * y0), int(height * y1)), slice(int(width * x0), int(width * x1))


def _visible(instances: Instances, latent: tuple[int, int]) -> Instances:
    """The instances whose box covers a pixel: one that covers none would be weighed with nothing to show."""
    kept = [n for n, box in enumerate(instances.boxes) if all(x.start < x.stop for x in _pixels(box, latent))]
    if len(kept) == len(instances.boxes):
        return instances
    boxes, contexts = (tuple(each[n] for n in kept) for each in (instances.boxes, instances.contexts))
    places, pooled = (torch.cat([x[:0], *(x[n : n + 1] for n in kept)]) for x in (instances.places, instances.pooled))
    return replace(instances, boxes=boxes, places=places, pooled=pooled, contexts=contexts)


def naive_fuser(each: Tensor, masks: Tensor) -> Tensor:
    """Mean of the attention with each context (1 + n, tokens, width); an instance's counts ten times within its box."""
    shares = torch.cat([torch.ones_like(masks[:1]), INSIDE * masks[1:]])[:, :, None].to(each.dtype)
    return (shares * each).sum(dim=0) / (shares.sum(dim=0) + 1e-6)


def slot_order(seed: int, progress: float, block: str, slots: int) -> list[int]:
    """The order in which the aggregation sees the slots: private to the image, the step and the block."""
    told = hashlib.sha256(f"{seed} {progress:.6f} {block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(told[:7], "big"))
    return torch.randperm(slots, generator=generator).tolist()


def _attended(attend: Attend, row: int, contexts: Sequence[Tensor]) -> list[Tensor]:
    """The attention of a row with each context: in one call where their lengths agree."""
    if len({context.shape for context in contexts}) == 1:
        return [attend(row, torch.stack(tuple(contexts)))]
    return [attend(row, context[None]) for context in contexts]


def _box_tokens(layer: Weights, instances: Instances) -> Tensor:
    """What the instances are asked with: each one's pooled phrase and its box, (n, 2, width)."""
    places = silu_mlp(layer["pos_net.linears_position"], instances.places)
    return torch.stack([instances.pooled, places], dim=1)


def _layout_attention(layer: Weights, h: Tensor, masks: Tensor, heads: int) -> Tensor:
    """Self-attention (tokens, width) in which tokens look only at those that share a box, or the rest, with them."""
    together = (masks.T @ masks) > 0
    q, k, v = (linear(part, h[None]) for part in (layer.to_q, layer.to_k, layer.to_v))
    return linear(layer["to_out.0"], attention(q, k, v, heads, together))[0]


def _aggregated(
    layer: Weights, phases: Tensor, guides: Tensor | None, grid: tuple[int, int], order: Sequence[int]
) -> Tensor:
    """The phases (p, tokens, width) weighed by what the shading aggregation controller makes of them: (tokens, width).

    MIGC: the rest, the instances, the whole, with guides (p, tokens). MIGC++: the instances, the whole, no guides.
    """
    first = 0 if guides is None else 1
    padded = torch.cat([phases, torch.zeros_like(phases[:1])])
    x = padded.transpose(1, 2).unflatten(2, grid)
    if guides is not None:
        guides = torch.cat([guides, torch.zeros_like(guides[:1])])
        x = torch.cat([x, guides[:, None].unflatten(2, grid)], dim=1)
        x = _cbam(layer["cbam1"], F.conv2d(x, layer["conv1"].weight, layer["conv1"].bias))
    scales = F.conv2d(x, layer["conv2"].weight, layer["conv2"].bias)[:, 0]
    instances, whole, empty = scales[first:-2], scales[-2:-1], scales[-1:]
    # one by one, because a list of places would have to go to the device in every layer
    slots = torch.cat([instances[n : n + 1] if n < len(instances) else empty for n in order])
    seen = _cbam(layer["cbam2"], torch.cat([scales[:first], slots, whole])[None])[0]
    found = [seen[first + place][None] for place in (order.index(n) for n in range(len(instances)))]
    shares = torch.cat([seen[:first], *found, seen[-1:]]).flatten(1).float().softmax(dim=0)
    return (phases * shares[:, :, None].to(phases.dtype)).sum(dim=0)


def _cbam(layer: Weights, x: Tensor) -> Tensor:
    """Convolutional block attention of x (batch, channels, h, w): a gate for each channel, then for each place."""
    mlp = layer["ChannelGate.mlp"]
    gates = sum(linear(mlp["3"], linear(mlp["1"], pooled).relu()) for pooled in (x.mean((2, 3)), x.amax((2, 3))))
    x = x * gates.sigmoid()[:, :, None, None]
    both = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
    return x * F.conv2d(both, layer["SpatialGate.spatial.conv"].weight, padding=3).sigmoid()
