"""What all adapters share: the UNet's blocks, the rows of its batch, and what one generation tells an adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import AdapterError
from .weights import Weights

_ROUNDING = 1e-6
"""Shares of steps such as 0.1 + 0.2 must not gain a step by their last binary digit."""


@dataclass(frozen=True)
class Rows:
    """What the rows of one UNet call are.

    images: for each row of the UNet's batch the number of the image (0, 1, ...) that it belongs to. prompts: for each
    row whether it is told a prompt (True) or the negative prompt (False). progress: the share of the sampling steps
    that are done, step / steps: 0 at the first step and below 1 at the last, the same for every evaluation of a step.
    """

    images: tuple[int, ...]
    prompts: tuple[bool, ...]
    progress: float = 0.0

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(f"{len(self.images)} images and {len(self.prompts)} prompts for the rows of one UNet call")


@dataclass(frozen=True)
class Block:
    """A transformer block of a UNet: `name` in ldm's layout whatever the UNet's own (see `attach.blocks_of`)."""

    name: str
    module: nn.Module
    width: int
    context: int
    heads: int


@dataclass(frozen=True)
class Call:
    """One call of the UNet: its rows, and the height and width of its latents. places: what earlier calls have brought
    to the device, to be used again."""

    rows: Rows
    latent: tuple[int, int]
    places: dict[tuple, Tensor] = field(default_factory=dict, repr=False)

    def index(self, adapter: Adapter, conds: int, unconds: int, device: torch.device) -> Tensor:
        """For each row its place in a table of `conds` rows for images' prompts, then `unconds` for their negatives.

        A table with one row for either serves all images.
        """
        key = (self.rows.images, self.rows.prompts, conds, unconds, device)
        if key not in self.places:
            places = [
                adapter.place(image, conds) if prompt else conds + adapter.place(image, unconds)
                for image, prompt in zip(self.rows.images, self.rows.prompts)
            ]
            self.places[key] = torch.tensor(places, device=device)
        return self.places[key]

    def grid(self, tokens: int) -> tuple[int, int]:
        """Height and width of the layer that has this many tokens: the latents', halved (rounded up) until they fit."""
        height, width = self.latent
        while height * width > tokens:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != tokens:
            raise AdapterError(
                f"A layer of the UNet has {tokens} tokens, which is no halving of {self.latent[0]}x{self.latent[1]} "
                "latents; switch off the extension that merges or tiles tokens."
            )
        return height, width


class Prepared:
    """An adapter with what one generation tells it; made by the adapter's own `told`, used by `attach.attached`.

    strength: 0 is off, bit for bit. until: the share of the sampling steps that the adapter acts in.
    """

    attends = False
    """Whether `attended` has anything to say: its queries are computed for that alone."""

    def __init__(self, adapter: Adapter, strength: float, until: float) -> None:
        self.adapter = adapter
        self.strength = strength
        self.until = until

    @property
    def works(self) -> bool:
        """Whether it acts in any step."""
        return self.strength != 0 and self.until > 0

    def acts(self, rows: Rows) -> bool:
        """Whether it acts in this call."""
        return self.works and self.before(rows.progress, self.until)

    @staticmethod
    def before(progress: float, until: float) -> bool:
        """Whether a step is among the first `until` of all steps."""
        return progress < until - _ROUNDING

    def fused(self, layer: Weights | None, block: Block, x: Tensor, call: Call) -> Tensor | None:
        """What is added to `x` (rows, tokens, width) between the block's self- and cross-attention."""
        return None

    def attended(self, layer: Weights | None, block: Block, q: Tensor, call: Call) -> Tensor | None:
        """What is added to the cross-attention of the queries `q` (rows, tokens, width) before its output layer."""
        return None

    def replaced(
        self, layer: Weights | None, block: Block, h: Tensor, out: Tensor, call: Call, attend: Attend
    ) -> Tensor | None:
        """What the cross-attention of `h` gives in place of `out`, both (rows, tokens, width)."""
        return None


Attend = Callable[[int, Tensor], Tensor]
"""attend(row, contexts): the block's cross-attention of one row of its input (1, tokens, width) with each of the
contexts (n, length, context width), other adapters' additions included: (n, tokens, width)."""


class Adapter(Weights):
    """An adapter's weights. `name` is the file that complaints name, `family` the checkpoints that it was made for."""

    kind: str

    def __init__(self, name: str, family: str, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.name = name
        self.family = family

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def size_in_bytes(self) -> int:
        """The memory that the weights take."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())

    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        """This adapter's layer for each block of a UNet, by the block's name; AdapterError where they do not fit."""
        raise NotImplementedError

    def place(self, image: int, count: int) -> int:
        """Where an image stands among `count` that the adapter was told of; one stands for all."""
        if 1 < count <= image:
            raise AdapterError(
                f'"{self.name}" was told of {count} images but image {image + 1} is drawn; '
                "tell it of one image for all, or of each."
            )
        return image if count > 1 else 0

    def unfit(self, why: str) -> AdapterError:
        return AdapterError(f'"{self.name}" does not fit the checkpoint: {why}; use an adapter made for its family.')
