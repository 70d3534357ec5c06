"""The inputs of one generation that an adapter is prepared with: layouts, phrases, pictures, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from ..layout import Layout


class Encoder(NamedTuple):
    """The CLIP vision encoder whose output an IP-Adapter reads.

    name: ViT-H, ViT-bigG, or empty for any other. output: image_embeds, (images, width), or hidden_states, those of the
    last layer but one, (images, patches + 1, width).
    """

    name: str
    output: str
    width: int


class Features(NamedTuple):
    """An image encoder's output.

    pictures: (1, ...) for all images of the batch, or (images, ...). blank: (1, ...), the output for the empty picture
    that negative prompts get; None means zeros, which only image_embeds may be.
    """

    pictures: Tensor
    blank: Tensor | None = None


class Inputs(Protocol):
    """The inputs of one generation. Each is made at its first use, so an adapter should use only its own.

    Making one may load and run an encoder, and may raise an error that names the missing setting.
    """

    @property
    def strength(self) -> float:
        """The adapter's scale; 0 is off."""

    @property
    def until(self) -> float:
        """The fraction of the sampling steps in which the adapter acts, from 0 to 1."""

    @property
    def seeds(self) -> Sequence[int]:
        """One seed for all images of the batch, or one for each."""

    @property
    def layouts(self) -> Sequence[Layout]:
        """One layout for all images of the batch, or one for each."""

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return CLIP's pooler output (width,) of each text: after the final norm, at the first end token."""

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        """Return each text encoded as a prompt for the UNet, (length, context width)."""

    def features(self, encoder: Encoder) -> Features:
        """Return the features of the reference picture."""


class GivenInputs:
    """Inputs that exist already, for training, benchmarks and tests. Gradients pass through them."""

    def __init__(
        self,
        layouts: Sequence[Layout] = (),
        pooled: Mapping[str, Tensor] | None = None,
        contexts: Mapping[str, Tensor] | None = None,
        features: Features | None = None,
        *,
        seeds: Sequence[int] = (0,),
        strength: float = 1.0,
        until: float = 1.0,
    ) -> None:
        self.layouts, self.seeds = layouts, seeds
        self.strength, self.until = strength, until
        self._pooled, self._contexts, self._features = pooled or {}, contexts or {}, features

    def pooled(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self._pooled

    def contexts(self, texts: Sequence[str]) -> Mapping[str, Tensor]:
        return self._contexts

    def features(self, encoder: Encoder) -> Features:
        if self._features is None:
            raise ValueError("no image features were given")
        return self._features
