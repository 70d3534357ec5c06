"""The common part of all adapters: the UNet's blocks, the rows of its batch, and the interface of an adapter's kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import AdapterError
from .inputs import Inputs
from .weights import Weights

_ROUNDING = 1e-6
"""Tolerance: fractions of steps such as 0.1 + 0.2 must not gain a step by their last binary digit."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shapes of a file's tensors by their names."""


@dataclass(frozen=True)
class Rows:
    """The rows of one UNet call.

    images: for each row of the UNet's batch the number of its image (0, 1, ...).
    prompts: for each row whether it has the prompt (True) or the negative prompt (False).
    progress: the share of the sampling steps that are done, step / steps: 0 at the first step and below 1 at the last,
        the same for every evaluation of a step.
    """

    images: tuple[int, ...]
    prompts: tuple[bool, ...]
    progress: float = 0.0

    def __post_init__(self) -> None:
        if len(self.images) != len(self.prompts):
            raise ValueError(f"{len(self.images)} images and {len(self.prompts)} prompts for the rows of one UNet call")


class Block(NamedTuple):
    """A transformer block of a UNet: `name` in ldm's layout whatever the UNet's own (see `attach.blocks_of`).

    width, context: the channels of its tokens and of its text contexts.
    """

    name: str
    module: nn.Module
    width: int
    context: int
    heads: int


Places = dict[tuple[object, ...], Tensor]
"""Index tensors that earlier calls of the UNet moved to the device, for later ones."""


@dataclass(frozen=True)
class Call:
    """One call of the UNet: its rows, and the height and width of its latents."""

    rows: Rows
    latent: tuple[int, int]
    places: Places = field(default_factory=dict, repr=False)

    def index(self, adapter: Adapter, conds: int, unconds: int, device: torch.device) -> Tensor:
        """Return the place (rows,) of each row in a table of `conds` rows for prompts, then `unconds` for negatives.

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
        """Return the height and width of the layer that has this many tokens.

        They are the latents', halved (rounded up) until they fit. AdapterError if no halving fits.
        """
        height, width = self.latent
        while height * width > tokens:
            height, width = (height + 1) // 2, (width + 1) // 2
        if height * width != tokens:
            raise AdapterError(
                f"A layer of the UNet has {tokens} tokens, which is no halving of {self.latent[0]}x{self.latent[1]} "
                "latents; switch off the extension that merges or tiles tokens."
            )
        return height, width


Attend = Callable[[int, Tensor], Tensor]
"""attend(row, contexts): the block's cross-attention of one row of its input (1, tokens, width) with each of the
contexts (n, length, context width), other adapters' additions included: (n, tokens, width)."""


class Prepared:
    """An adapter with the inputs of one generation; made by `Adapter.prepare`, used by `attach.attached`.

    strength: 0 is off, bit for bit. until: the share of the sampling steps that the adapter acts in.
    """

    attends = False
    """True for a kind with its own `attended`: queries are computed only for it."""

    def __init__(self, adapter: Adapter, strength: float, until: float) -> None:
        self.adapter = adapter
        self.strength = strength
        self.until = until

    @property
    def works(self) -> bool:
        """True if the adapter acts in any step."""
        return self.strength != 0 and self.until > 0

    def acts(self, rows: Rows) -> bool:
        """Return True if the adapter acts in this call."""
        return self.works and self.before(rows.progress, self.until)

    @staticmethod
    def before(progress: float, until: float) -> bool:
        """Return True for a step among the first `until` of all steps."""
        return progress < until - _ROUNDING

    def fused(self, layer: Weights, block: Block, x: Tensor, call: Call) -> Tensor | None:
        """Return the addition to `x` between the block's self- and cross-attention, or None for none.

        layer: the adapter's layer for the block. `x` and the addition are (rows, tokens, width).
        """
        return None

    def attended(self, layer: Weights, block: Block, q: Tensor, call: Call) -> Tensor | None:
        """Return the addition to the block's cross-attention before its output layer, or None for none.

        layer: the adapter's layer for the block. The queries `q` and the addition are (rows, tokens, width).
        """
        return None

    def replaced(
        self, layer: Weights | None, block: Block, h: Tensor, out: Tensor, call: Call, attend: Attend
    ) -> Tensor | None:
        """Return the new output of the block's cross-attention, or None to leave it.

        layer: the adapter's layer for the block, or None. The attention's input `h`, its output `out`
        and the new output are (rows, tokens, width).
        """
        return None


@dataclass(frozen=True)
class AdapterInfo:
    """The description of a file.

    kind: that of its class, see `kinds.KINDS`.
    family: SD1 or SDXL.
    variant: named by the kind, which reads it from the tensors or the file's name; may be empty.
    name: the file's, for error texts.
    """

    kind: str
    family: str
    variant: str
    name: str


class Room(NamedTuple):
    """The part of a layout that a kind takes. None: it is not counted.

    If actions are counted, a layout without any and a phrase that takes part in none are refused.
    """

    boxes: int | None = None
    actions: int | None = None


@dataclass(frozen=True)
class AdapterFile(AdapterInfo):
    """A file's description with its tensors, by the names that its kind expects."""

    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)


def refused(name: str, reason: str) -> AdapterError:
    """Return the error for the file `name`: its sentence continues with `reason`, which has no full stop."""
    return AdapterError(f'"{name}" {reason}.')


class Adapter(Weights, ABC):
    """An adapter's weights, in the file's own dtype and on the CPU until `.to(...)` moves them.

    A kind of adapter is a subclass in a separate file, registered in `kinds.KINDS`. It recognises its files, names
    and checks their tensors, fits its layers to a UNet, and prepares itself for a generation.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    """The kind's name in a user's words."""
    takes_image: ClassVar[bool] = False
    """True for a kind with a picture as input; all others take a layout."""
    folders: ClassVar[str]
    """A case-insensitive pattern for the names of folders in which other programs keep its files."""
    needs_float32: ClassVar[bool] = False
    """True for a kind whose own layers are not exact enough in half precision; its results are cast."""

    def __init__(self, file: AdapterFile) -> None:
        super().__init__(file.tensors)
        self.name = file.name
        self.family = file.family
        self.variant = file.variant

    @classmethod
    @abstractmethod
    def recognise(cls, shapes: Shapes, name: str) -> AdapterInfo | None:
        """Return the description of a file with these tensors, or None if it is not of this kind.

        AdapterError, which calls the file `name`, if it is of this kind and cannot be used. A shape with fewer
        dimensions than expected may raise IndexError.
        """

    @classmethod
    @abstractmethod
    def rename(cls, names: Iterable[str]) -> dict[str, str]:
        """Return the names of this kind's tensors among a file's, each with the name that the kind expects."""

    @classmethod
    @abstractmethod
    def required(cls, variant: str, names: Collection[str]) -> Iterable[str]:
        """Return the tensors that a file of this variant must have, given the (expected) names of those it has."""

    @classmethod
    def adjust(cls, name: str, tensor: Tensor) -> Tensor:
        """Return a file's tensor in the shape that the kind expects for this (expected) name."""
        return tensor

    @classmethod
    def room(cls, variant: str) -> Room:
        """Return how much of a layout the published files of this variant take, for the panel."""
        return Room()

    @abstractmethod
    def layers(self, blocks: Sequence[Block]) -> dict[str, Weights]:
        """Return this adapter's layers for a UNet's blocks, by the blocks' names; AdapterError for a mismatch."""

    @abstractmethod
    def prepare(self, inputs: Inputs) -> Prepared:
        """Return the adapter ready for one generation.

        AdapterError if the inputs do not suit it. Gradients pass through it, so that it can be trained.
        """

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def size_in_bytes(self) -> int:
        """Return the memory that the weights take."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())

    def place(self, image: int, count: int) -> int:
        """Return the index of an image among the `count` that the adapter was prepared for; a single one serves all."""
        if 1 < count <= image:
            raise AdapterError(
                f'"{self.name}" was prepared for {count} images, but image {image + 1} is being drawn; '
                "give one input for all images, or one for each."
            )
        return image if count > 1 else 0

    def mismatch(self, reason: str) -> AdapterError:
        """Return the error for a checkpoint that the adapter was not made for."""
        return AdapterError(f'"{self.name}" does not fit the checkpoint: {reason}; use an adapter made for its family.')
