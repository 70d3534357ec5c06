"""Families of models: their names and latent spaces, which of them can be run together, and what an adapter fits."""

from __future__ import annotations

from typing import NamedTuple


class FlowKind(NamedTuple):
    """A family of flow models that is known."""

    name: str
    latents: str
    """The name of its latent space, as Forge Neo has it."""
    marks: tuple[str, ...]
    """Beginnings of the names of weights: a network with one of them is of this family, unless one before it fits."""
    width: int = 0
    """The length of that weight, if other families have a weight of this name; 0: any length."""


FLOW_KINDS = (
    FlowKind("Lumina 2", "Flux", ("cap_embedder.1.weight",), 2304),
    FlowKind("Z-Image", "Flux", ("cap_embedder.1.weight",), 3840),
    FlowKind("Chroma", "Flux", ("distilled_guidance_layer.",)),
    FlowKind("Flux.2", "Flux2", ("double_stream_modulation_img.",)),
    FlowKind("Flux", "Flux", ("double_blocks.0.img_attn.", "single_transformer_blocks.0.mlp_fc1.")),
    FlowKind("SD3", "SD3", ("joint_blocks.0.context_block.",)),
    FlowKind("Anima", "Wan21", ("llm_adapter.blocks.0.",)),
    FlowKind("PiD", "PiD", ("lq_proj.latent_proj.",)),
    FlowKind("Krea 2", "Wan21", ("txtfusion.projector.",)),
    FlowKind("Qwen-Image", "Wan21", ("txt_norm.",)),
    FlowKind("Qwen-Image 2.1", "QwenImage21", ("txt_in.text_norm.",)),
    FlowKind("Wan", "Wan21", ("head.modulation",)),
    FlowKind("Ernie-Image", "Flux2", ("layers.0.mlp.linear_fc2.",)),
    # its network is a UNet of SDXL's layers, so its file is known by shapes
    FlowKind("Mugen", "SDXL_Flux2", ()),
)
TEXT_WIDTHS = {768: "SD1", 1024: "SD2", 2048: "SDXL"}
"""The families whose networks are UNets, by the width of their text contexts."""
UNKNOWN = "of an unknown kind"
_LATENTS_OF = {"SD2": "SD1"}
"""Families of UNets with the latents of another one."""
_NATIVE_SIDES = {"SD1": 512, "SD2": 768}
_NATIVE_SIDE = 1024
_INPUTS = {4: "", 5: "depth", 7: "upscaling", 8: "InstructPix2Pix", 9: "inpainting"}
"""By the UNet's input channels."""
_SHOWN = {
    "depth": "a map of depths",
    "upscaling": "the smaller picture",
    "InstructPix2Pix": "the picture to change",
    "inpainting": "the mask and the known part",
    "unCLIP": "an encoded picture",
    "image-to-video": "the first frame",
}
"""The further inputs of such models, in words."""
_LATENT_CHANNELS = 4
"""Of the families whose networks are UNets."""
_ALONE = ("InstructPix2Pix", "unCLIP", "image-to-video")
"""Kinds whose models have inputs that no other model shares."""
_NO_PICTURES = ("PiD",)
"""Families that upscale."""
_WAN_CHANNELS = 16
"""Of the latents of Wan that pictures share."""
WITHOUT_FLOW = "in this WebUI the method needs an eps or v model"
"""The reason against flow models, a part of a sentence, where AMDM runs none."""
_OF_BOTH_KINDS = ("SDXL",)
"""Families of which some models are flow models and most are not."""
_TRANSPARENT = ("Qwen-Image 2.1",)
"""Families whose autoencoders have pictures of four channels, which those of others cannot take."""


class Family(NamedTuple):
    """A family of models. `str` gives it in a user's words."""

    name: str
    """"SD1", "SDXL", "Flux"."""
    inputs: str = ""
    """The network's inputs in addition to the latent and the text, "inpainting", or ""."""
    latents: str = ""
    """The name of its latent space; "" if no other family has it."""
    is_flow: bool = False
    """True if latents are (1 - t) x0 + t noise; the networks of all others predict eps or v."""

    def __str__(self) -> str:
        kind = "rectified flow" if self.is_flow and self.name in _OF_BOTH_KINDS else ""
        return " ".join(part for part in (self.name, self.inputs, kind) if part)

    @property
    def space(self) -> str:
        """The name of its latent space."""
        return self.latents or self.name

    def fits(self, other: Family) -> bool:
        """Return True if models of both can be run together: they share the latents, and the other inputs."""
        return self.space == other.space and self.inputs == other.inputs

    def goes_with(self, main: Family) -> bool:
        """Return True if a model of this family can be run with a main one of another."""
        return (not self.runs_alone and self.fits(main)) or self.crosses(main)

    def reason_against(self, main: Family) -> str:
        """Return why a model of this family cannot be run with a main one of another, a part of a sentence; or ""."""
        return "" if self.goes_with(main) else self.peculiarity or main.peculiarity

    def crosses(self, main: Family) -> bool:
        """Return True if a model of this family is run with a main one through pixels: their latents differ."""
        if self.runs_alone or main.runs_alone or self.inputs or main.inputs:
            return False
        if self.name in _TRANSPARENT or main.name in _TRANSPARENT:
            return False
        return not self.fits(main)

    @property
    def peculiarity(self) -> str:
        """The reason that its models do not go with those of other families, a part of a sentence; or ""."""
        if self.name in _NO_PICTURES:
            return f"{self.name} enlarges pictures and draws none"
        if self.name in _TRANSPARENT:
            return f"the pictures of {self.name} have a fourth channel"
        if self.inputs in _SHOWN:
            return f"{self.inputs} models are also shown {_SHOWN[self.inputs]}"
        return f"models {self.inputs} are shown more than a latent" if self.inputs else ""

    @property
    def runs_alone(self) -> bool:
        """True if no model of another file can be run with it."""
        return self.inputs in _ALONE or self.name in _NO_PICTURES

    @property
    def native_side(self) -> int:
        """The side in pixels of the square pictures that its models were trained on."""
        return _NATIVE_SIDES.get(self.name, _NATIVE_SIDE)

    @property
    def has_phrases(self) -> bool:
        """True if there are adapters for it with phrases, encoded by its one CLIP."""
        return self.name == "SD1"


def flow_family(name: str, latents: str = "") -> Family:
    """Return a family of flow models. latents: a host's name of its latent space, for a family that is not known."""
    known = next((kind.latents for kind in FLOW_KINDS if kind.name == name), latents)
    return Family(name, latents=known, is_flow=True)


def wan_family(channels: int, outputs: int) -> Family:
    """Return a family of Wan, of whose videos one frame is a picture. channels, outputs: of its input and output."""
    if channels == outputs != _WAN_CHANNELS:
        return Family(f"Wan with {channels} latent channels", is_flow=True)
    inputs = "" if channels == _WAN_CHANNELS else "image-to-video"
    return flow_family("Wan")._replace(inputs=inputs)


def unet_family(
    name: str, channels: int = 4, has_labels: bool = False, is_flow: bool = False, outputs: int = _LATENT_CHANNELS
) -> Family:
    """Return a family whose network is a UNet.

    channels, outputs: those of its input and its output.
    has_labels: True if it has labels of classes.
    """
    if channels == outputs != _LATENT_CHANNELS:
        # nothing but a latent goes in and comes out, and it is not the one that the name stands for
        return Family(f"{name} with {channels} latent channels", is_flow=is_flow)
    inputs = "unCLIP" if name == "SD2" and has_labels else _INPUTS.get(channels, f"with {channels} input channels")
    return Family(name, inputs, _LATENTS_OF.get(name, ""), is_flow=is_flow)
