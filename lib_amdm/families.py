"""Families of models: which of them can be run together, and what an adapter made for one fits."""

from __future__ import annotations

from typing import NamedTuple

_INPUTS = {4: "", 5: "depth", 7: "upscaling", 8: "InstructPix2Pix", 9: "inpainting"}
"""By the UNet's input channels."""
_ALONE = ("InstructPix2Pix", "unCLIP")
"""Kinds whose models have inputs of their own, which no other model shares."""
_NO_PICTURES = ("PiD", "Wan")
"""Families that upscale, or draw videos."""
_OF_BOTH_KINDS = ("SDXL",)
"""Families of which some models are flow models and most are not."""


class Family(NamedTuple):
    """A family of models. `str` gives it in a user's words.

    name: "SD1", "SDXL", "Flux". inputs: what the network is given beside the latent and the text, "inpainting", or "".
    latents: the name of its latent space, where other families have the same. is_flow: latents are
    (1 - t) x0 + t noise; the networks of all others predict eps or v.
    """

    name: str
    inputs: str = ""
    latents: str = ""
    is_flow: bool = False

    def __str__(self) -> str:
        kind = "rectified flow" if self.is_flow and self.name in _OF_BOTH_KINDS else ""
        return " ".join(part for part in (self.name, self.inputs, kind) if part)

    def fits(self, other: Family) -> bool:
        """Return True where models of both can be run together: they share the latents, and the other inputs."""
        space, others = self.latents or self.name, other.latents or other.name
        return space == others and self.inputs == other.inputs

    def goes_with(self, main: Family) -> bool:
        """Return True where a model of this family can be run beside a main one of another."""
        return not self.runs_alone and self.fits(main)

    @property
    def runs_alone(self) -> bool:
        """True where no model of another file can be run beside it."""
        return self.inputs in _ALONE or self.name in _NO_PICTURES

    @property
    def has_phrases(self) -> bool:
        """True where there are adapters for it that are given phrases, encoded by its one CLIP."""
        return self.name == "SD1"


def inputs_of(channels: int) -> str:
    """The inputs of a UNet with this many input channels, as a part of its family's name."""
    return _INPUTS.get(channels, f"with {channels} input channels")
