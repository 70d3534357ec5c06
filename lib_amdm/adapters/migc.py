"""MIGC: several things in their boxes, by shading each one's cross-attention and aggregating (Zhou et al., 2024).

NaiveFuser is its parameterless companion, for the layers and steps in which MIGC itself does not act. MIGC++ refines
NaiveFuser's result with learnt weights.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..errors import AdapterError
from ..layout import Box, Layout
from .base import Adapter, AdapterFile, AdapterInfo, Attend, Block, Call, Prepared, Room, Shapes
from .gligen import MLP
from .inputs import Inputs
from .names import ldm_names
from .weights import Weights, attention, box_embedding, layer_norm, linear, silu_mlp

INSIDE = 10.0
"""The weight of an instance's attention within its box, in NaiveFuser's mean; the whole picture's is 1."""
_PART = re.compile(r"(?:(input|output)_blocks\.(\d+)|middle_block)\..*?(?:transformer_blocks\.(\d+)\..*?)?migc\.(.+)")
_LAYER = (
    *(f"{part}.to_{x}.weight" for part in ("ea", "la") for x in "qkv"),
    *(f"{part}.to_out.0.{x}" for part in ("ea", "la") for x in ("weight", "bias")),
    *(f"{name}.{x}" for name in ("norm", "sac.conv2", "sac.cbam2.ChannelGate.mlp.1") for x in ("weight", "bias")),
    *(f"sac.cbam2.ChannelGate.mlp.3.{x}" for x in ("weight", "bias")),
    "sac.cbam2.SpatialGate.spatial.conv.weight",
    *(f"pos_net.linears_position.{part}" for part in MLP),
)
_LAYER_OF_VARIANT = {
    "migc": (
        *(f"sac.{name}.{x}" for name in ("conv1", "cbam1.ChannelGate.mlp.1", "cbam1.ChannelGate.mlp.3")
          for x in ("weight", "bias")),
        "sac.cbam1.SpatialGate.spatial.conv.weight",
    ),
    "migc++": ("gamma",),
}  # fmt: skip


class Instances(NamedTuple):
    """The things of one image.

    boxes: n.
    places: their Fourier features for the position net (n, 64).
    pooled: the phrases' pooled embeddings (n, width).
    contexts: the phrases as prompts, n of (length, width).
    """

    boxes: tuple[Box, ...]
    places: Tensor
    pooled: Tensor
    contexts: tuple[Tensor, ...]
    seed: int


class Migc(Adapter):
    """MIGC or MIGC++, in whichever layers the file has: the middle and the lowest output ones in the published files.

    Its tensors are `<block>.migc.*`, with `<block>` as `attach.blocks_of` names blocks. It ignores a layout's
    interactions. MIGC's published runs act in the first 26 of 50 steps, and MIGC++'s NaiveFuser in all.
    """

    kind = "migc"
    title = "MIGC"
    folders = "migc"
    needs_float32 = True

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file)
        self.plus = file.variant == "migc++"
        names = (name for name, _ in self.named_modules() if name.endswith(".migc"))
        self._own = {name.removesuffix(".migc"): self[name] for name in names}

    @classmethod
    def recognise(cls, shapes: Shapes, name: str) -> AdapterInfo | None:
        """Return the description; the variants are migc and migc++."""
        if not any(".migc." in key for key in shapes):
            return None
        plus = any(".migc.gamma" in key or "attn2.processor." in key for key in shapes)
        return AdapterInfo(cls.kind, "SD1", "migc++" if plus else "migc", name)

    @classmethod
    def rename(cls, names: Iterable[str]) -> dict[str, str]:
        parts = {name: _PART.search(ours) for name, ours in ldm_names(names).items() if ".migc." in ours}
        return {name: _part_name(match) for name, match in parts.items() if match}

    @classmethod
    def required(cls, variant: str, names: Collection[str]) -> Iterable[str]:
        blocks = {name.split(".migc.")[0] for name in names}
        return [f"{block}.migc.{part}" for block in blocks for part in (*_LAYER, *_LAYER_OF_VARIANT[variant])]

    @classmethod
    def room(cls, variant: str) -> Room:
        return Room(boxes=29 if variant == "migc++" else 28)

    @property
    def slots(self) -> int:
        """The number of instances that there can be: 28 in MIGC, 29 in MIGC++."""
        channels = next(iter(self._own.values()))["sac.cbam2.ChannelGate.mlp.1"].weight.shape[1]
        return channels - (1 if self.plus else 2)

    @property
    def phrase_width(self) -> int:
        """The width of the phrases' pooled embeddings."""
        return next(iter(self._own.values()))["ea.to_k"].weight.shape[1]

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        theirs = {block.name: block for block in blocks}
        for name, layer in self._own.items():
            if name not in theirs:
                raise self.mismatch(f"the UNet has no {name}")
            width = layer["norm"].weight.shape[0]
            if width != theirs[name].width:
                raise self.mismatch(f"its layer of {name} is {width} wide and the block {theirs[name].width}")
        return dict(self._own)

    def prepare(self, inputs: Inputs, naive_until: float | None = None) -> PreparedInstances:
        """Return the adapter with the layouts, whose phrases are encoded both as pooled embeddings and as prompts.

        The order in which MIGC's aggregation sees the instances is drawn from an image's seed and the step, never from
        torch's own generator. naive_until: the fraction of the steps in which NaiveFuser acts if MIGC does not; None:
        0 in MIGC and the inputs' `until` in MIGC++.
        """
        if naive_until is None:
            naive_until = inputs.until if self.plus else 0.0
        layouts, seeds = inputs.layouts, inputs.seeds
        count = max(len(layouts), len(seeds))
        if not {len(layouts), len(seeds)} <= {1, count}:
            raise ValueError(f"{len(layouts)} layouts and {len(seeds)} seeds are not of one batch")
        texts = list(dict.fromkeys(phrase for layout in layouts for phrase in layout.phrases))
        pooled, contexts = inputs.pooled(texts), inputs.contexts(texts)
        layouts = [*layouts] * (count if len(layouts) == 1 else 1)
        seeds = [*seeds] * (count if len(seeds) == 1 else 1)
        images = tuple(self._instances(layout, pooled, contexts, seed) for layout, seed in zip(layouts, seeds))
        return PreparedInstances(self, images, inputs.strength, inputs.until, naive_until)

    def _instances(
        self, layout: Layout, phrases: Mapping[str, Tensor], contexts: Mapping[str, Tensor], seed: int
    ) -> Instances:
        """Return one image's things.

        phrases: each one's pooled embedding (width,).
        contexts: each one's encoded prompt (length, width).
        """
        count = len(layout.regions)
        if count > self.slots:
            raise AdapterError(f'"{self.name}" takes {self.slots} boxes and the layout has {count}; remove some.')
        words = layout.phrases
        pooled = [phrases[word].reshape(-1) for word in words]
        bad = next((embedding for embedding in pooled if len(embedding) != self.phrase_width), None)
        if bad is not None:
            raise self.mismatch(f"it needs phrases of width {self.phrase_width} and the text encoder gives {len(bad)}")
        boxes = tuple(region.box for region in layout.regions)
        places = box_embedding(torch.tensor([(x0, x1, y0, y1) for x0, y0, x1, y1 in boxes]).view(-1, 4))
        return Instances(
            boxes,
            places.to(self.device, self.dtype),
            torch.stack(pooled).to(self.device, self.dtype) if pooled else torch.zeros(0, self.phrase_width),
            tuple(contexts[word] for word in words),
            seed,
        )


def _part_name(match: re.Match[str]) -> str:
    """Return our name: files differ in the part between the block and `migc`."""
    side, number, depth, rest = match.groups()
    parent = f"{side}_blocks.{number}" if side else "middle_block"
    return f"{parent}.1.transformer_blocks.{depth or 0}.migc.{rest}"


class PreparedInstances(Prepared):
    """MIGC with the instances of each image, or of all images. Rows of negative prompts are left alone."""

    adapter: Migc

    def __init__(
        self, adapter: Migc, images: tuple[Instances, ...], strength: float, until: float, naive_until: float
    ) -> None:
        super().__init__(adapter, strength, max(until, naive_until))
        self.images = images
        self.migc_until = until
        self.naive_until = naive_until
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def replaced(
        self, layer: Weights | None, block: Block, h: Tensor, out: Tensor, call: Call, attend: Attend
    ) -> Tensor | None:
        """Return the output with each image's instances in it, (rows, tokens, width).

        In the steps before `migc_until` MIGC acts in blocks for which it has a layer. NaiveFuser acts in the others,
        and after that, before `naive_until`.
        """
        if not self.before(call.rows.progress, self.migc_until):
            layer = None
        if layer is None and not self.before(call.rows.progress, self.naive_until):
            return None
        grid = call.grid(h.shape[1])
        fused = out.clone()
        for row, (image, prompt) in enumerate(zip(call.rows.images, call.rows.prompts)):
            instances = _visible(self.images[self.adapter.place(image, len(self.images))], call.latent)
            if not prompt or not instances.boxes:
                continue
            masks = self._masks_of(instances, call.latent, grid, h.device)
            outputs = torch.cat([out[row : row + 1], *_attended(attend, row, instances.contexts)])
            if layer is not None:
                order = slot_order(instances.seed, call.rows.progress, block.name, self.adapter.slots)
                new = self._shaded(layer, block, h[row], outputs, masks, instances, grid, order)
            else:
                new = naive_fuser(outputs, masks)
            fused[row] = new if self.strength == 1 else torch.lerp(out[row], new.to(out.dtype), self.strength)
        return fused

    def _shaded(
        self,
        layer: Weights,
        block: Block,
        h: Tensor,
        outputs: Tensor,
        masks: Tensor,
        instances: Instances,
        grid: tuple[int, int],
        order: Sequence[int],
    ) -> Tensor:
        """Return the cross-attention (tokens, width) of one row.

        h: its input (tokens, width).
        outputs: its output with each context, the prompt's first, (1 + n, tokens, width).
        masks: see `box_masks`.
        grid: the layer's height and width.
        order: see `slot_order`.
        """
        dtype = self.adapter.dtype
        h, outputs, masks = h.to(dtype), outputs.to(dtype), masks.to(dtype)
        tokens = _box_tokens(layer, instances)
        enhancement = layer["ea"]
        q = linear(enhancement["to_q"], layer_norm(layer["norm"], h)).expand(len(instances.boxes), -1, -1)
        enhanced = attention(q, linear(enhancement["to_k"], tokens), linear(enhancement["to_v"], tokens), block.heads)
        enhanced = masks[1:, :, None] * linear(enhancement["to_out.0"], enhanced)
        whole = _layout_attention(layer["la"], h, masks, block.heads)
        if self.adapter.plus:
            learnt = _aggregated(layer["sac"], torch.cat([enhanced, whole[None]]), None, grid, order)
            return naive_fuser(outputs, masks) + layer.get_parameter("gamma").tanh() * learnt
        phases = torch.cat([masks[:, :, None] * outputs, whole[None]])
        phases[1:-1] += enhanced
        guides = torch.cat([masks, torch.ones_like(masks[:1])])
        return _aggregated(layer["sac"], phases, guides, grid, order)

    def _masks_of(
        self, instances: Instances, latent: tuple[int, int], grid: tuple[int, int], device: torch.device
    ) -> Tensor:
        """Return `box_masks` of the instances, made and brought to the device once."""
        key = (instances.boxes, latent, grid, device)
        if key not in self._masks:
            self._masks[key] = box_masks(instances.boxes, latent, grid).to(device)
        return self._masks[key]


def box_masks(boxes: Sequence[Box], latent: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return masks of the rest and of each box: shares of a layer's tokens, (1 + n, tokens), float32.

    latent, grid: height and width of the latents and of the layer. The boxes are drawn in the picture's pixels, then
    reduced twice: to the latents, to the grid. The values at the edges depend on that.
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
    """Return the rows and columns of the picture that a box covers."""
    height, width = (8 * size for size in latent)
    x0, y0, x1, y1 = box
    return slice(int(height * y0), int(height * y1)), slice(int(width * x0), int(width * x1))


def _visible(instances: Instances, latent: tuple[int, int]) -> Instances:
    """Return the instances with a box of a pixel or more: others would get weight but contribute nothing."""
    visible = [n for n, box in enumerate(instances.boxes) if all(x.start < x.stop for x in _pixels(box, latent))]
    if len(visible) == len(instances.boxes):
        return instances
    boxes, contexts = tuple(instances.boxes[n] for n in visible), tuple(instances.contexts[n] for n in visible)
    places, pooled = (
        torch.cat([x[:0], *(x[n : n + 1] for n in visible)]) for x in (instances.places, instances.pooled)
    )
    return instances._replace(boxes=boxes, places=places, pooled=pooled, contexts=contexts)


def naive_fuser(outputs: Tensor, masks: Tensor) -> Tensor:
    """Return the mean (tokens, width) of the attention with each context, (1 + n, tokens, width).

    An instance's counts ten times within its box. masks: (1 + n, tokens).
    """
    shares = torch.cat([torch.ones_like(masks[:1]), INSIDE * masks[1:]])[:, :, None].to(outputs.dtype)
    return (shares * outputs).sum(dim=0) / (shares.sum(dim=0) + 1e-6)


def slot_order(seed: int, progress: float, block: str, slots: int) -> list[int]:
    """Return the order in which the aggregation sees the slots: private to the image, the step and the block."""
    digest = hashlib.sha256(f"{seed} {progress:.6f} {block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order: list[int] = torch.randperm(slots, generator=generator).tolist()
    return order


def _attended(attend: Attend, row: int, contexts: Sequence[Tensor]) -> list[Tensor]:
    """Return the attention of a row with each context, n in all as a list of (_, tokens, width).

    Contexts of one length share a call.
    """
    if len({context.shape for context in contexts}) == 1:
        return [attend(row, torch.stack(tuple(contexts)))]
    return [attend(row, context[None]) for context in contexts]


def _box_tokens(layer: Weights, instances: Instances) -> Tensor:
    """Return the tokens (n, 2, width) of the enhancement attention: each instance's pooled phrase and its box."""
    places = silu_mlp(layer["pos_net.linears_position"], instances.places)
    return torch.stack([instances.pooled, places], dim=1)


def _layout_attention(layer: Weights, h: Tensor, masks: Tensor, heads: int) -> Tensor:
    """Return self-attention (tokens, width) of h (tokens, width), within each box and within the rest."""
    together = (masks.T @ masks) > 0
    q, k, v = (linear(part, h[None]) for part in (layer["to_q"], layer["to_k"], layer["to_v"]))
    return linear(layer["to_out.0"], attention(q, k, v, heads, together))[0]


def _aggregated(
    layer: Weights, phases: Tensor, guides: Tensor | None, grid: tuple[int, int], order: Sequence[int]
) -> Tensor:
    """Return the mean (tokens, width) of the phases (p, tokens, width), weighed by the shading aggregation controller.

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
    # one by one, because a list of indices would be copied to the device in every layer
    slots = torch.cat([instances[n : n + 1] if n < len(instances) else empty for n in order])
    seen = _cbam(layer["cbam2"], torch.cat([scales[:first], slots, whole])[None])[0]
    of_instances = [seen[first + place][None] for place in (order.index(n) for n in range(len(instances)))]
    shares = torch.cat([seen[:first], *of_instances, seen[-1:]]).flatten(1).float().softmax(dim=0)
    return (phases * shares[:, :, None].to(phases.dtype)).sum(dim=0)


def _cbam(layer: Weights, x: Tensor) -> Tensor:
    """Return the convolutional block attention of x (batch, channels, h, w): a gate per channel, then per place."""
    mlp = layer["ChannelGate.mlp"]
    mean, most = (linear(mlp["3"], linear(mlp["1"], pooled).relu()) for pooled in (x.mean((2, 3)), x.amax((2, 3))))
    gates = mean + most
    x = x * gates.sigmoid()[:, :, None, None]
    both = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
    return x * F.conv2d(both, layer["SpatialGate.spatial.conv"].weight, padding=3).sigmoid()
