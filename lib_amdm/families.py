"""Families of models: which of them can be run together, and what an adapter made for one fits."""

from __future__ import annotations

from dataclasses import dataclass, field

_INPUTS = {4: "", 5: "depth", 7: "upscaling", 8: "InstructPix2Pix", 9: "inpainting"}
"""By the UNet's input channels."""
_ALONE = ("InstructPix2Pix", "unCLIP")
"""Kinds whose models have inputs of their own, which no other model shares."""


@dataclass(frozen=True)
class Family:
    """A family of models, which share their latents and the inputs of their networks. `str` gives it in a user's words.

    name: "SD1", "SDXL", "Flux". inputs: what the network is given beside the latent and the text, "inpainting", or "".
    has_sigmas: it predicts eps or v, so that its latents are x0 + sigma * noise; not a part of which family it is.
    """

    name: str
    inputs: str = ""
    has_sigmas: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"{self.name} {self.inputs}".rstrip()

    @property
    def runs_alone(self) -> bool:
        """True where no model of another file can be run beside it."""
        return self.inputs in _ALONE

    @property
    def has_phrases(self) -> bool:
        """True where there are adapters for it that are given phrases, encoded by its one CLIP."""
        return self.name == "SD1"


def inputs_of(channels: int) -> str:
    """The inputs of a UNet with this many input channels, as a part of its family's name."""
    return _INPUTS.get(channels, f"with {channels} input channels")
