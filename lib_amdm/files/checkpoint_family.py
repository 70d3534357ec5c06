"""The family of a checkpoint by the names and shapes in its file, before anything is loaded.

A host knows a checkpoint's family once it has loaded it, and has the last word; this is for lists of files. A file of
which nothing certain can be said has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import AdapterError, cause
from ..families import Family, inputs_of
from .container import opened
from .state import FileState

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
"""Beginnings of the names of a network's weights, by who wrote the file."""
_FLUX, _FLUX2, _WAN = "Flux", "Flux2", "Wan21"
_MARKS = {
    "distilled_guidance_layer.": Family("Chroma", latents=_FLUX, is_flow=True),
    "double_stream_modulation_img.": Family("Flux.2", latents=_FLUX2, is_flow=True),
    "double_blocks.0.img_attn.": Family("Flux", latents=_FLUX, is_flow=True),
    "single_transformer_blocks.0.mlp_fc1.": Family("Flux", latents=_FLUX, is_flow=True),
    "joint_blocks.0.context_block.": Family("SD3", is_flow=True),
    "llm_adapter.blocks.0.": Family("Anima", latents=_WAN, is_flow=True),
    "lq_proj.latent_proj.": Family("PiD", is_flow=True),
    "txtfusion.projector.": Family("Krea 2", latents=_WAN, is_flow=True),
    "txt_norm.": Family("Qwen-Image", latents=_WAN, is_flow=True),
    "head.modulation": Family("Wan", latents=_WAN, is_flow=True),
    "layers.0.mlp.linear_fc2.": Family("Ernie-Image", latents=_FLUX2, is_flow=True),
}
"""Beginnings of names that of all families only one has, or several with the first of them first."""
_CAPTIONS = "cap_embedder.1.weight"
_BY_CAPTION_WIDTH = {
    2304: Family("Lumina 2", latents=_FLUX, is_flow=True),
    3840: Family("Z-Image", latents=_FLUX, is_flow=True),
}
_FIRST, _LAST, _LABELS = "input_blocks.0.0.weight", "out.2.weight", "label_emb.0.0.weight"
_READS_TEXT = "attn2.to_k.weight"
_SDXL_LABELS = (2816, 2560)
"""Widths of what an SDXL, or its refiner, is told beside the text."""
_SD2_TEXTS = 1024
_SDXL_TEXTS, _OPEN_CLIP, _IMAGE_CLIP = "conditioner.embedders.", "cond_stage_model.model.", "embedder.model."
"""Beginnings of the names of text encoders' weights: SDXL's, SD2's, and unCLIP's of pictures."""
_MUGEN_CHANNELS = 32


def family_of(shapes: Shapes) -> Family | None:
    """Return the family of a checkpoint with these weights; None where they do not say."""
    prefix = next(each for each in PREFIXES if any(name.startswith(each) for name in shapes) or not each)
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        if _FIRST in own:
            return _of_unet(own, shapes)
        if _CAPTIONS in own:
            return _BY_CAPTION_WIDTH.get(own[_CAPTIONS][0])
    except IndexError:  # fewer dimensions than such weights have
        return None
    return next((family for mark, family in _MARKS.items() if _begins(own, mark)), None)


def _of_unet(unet: Shapes, shapes: Shapes) -> Family | None:
    channels = unet[_FIRST][1]
    labels = unet.get(_LABELS, (0, 0))[1]
    if labels in _SDXL_LABELS or _begins(shapes, _SDXL_TEXTS):
        if unet.get(_LAST, (0,))[0] == _MUGEN_CHANNELS:
            return Family("Mugen", latents="SDXL_Flux2", is_flow=True)
        return Family("SDXL", inputs_of(channels))
    widths = {shape[1] for name, shape in unet.items() if name.endswith(_READS_TEXT)}
    if _SD2_TEXTS in widths or _begins(shapes, _OPEN_CLIP):
        return Family("SD2", "unCLIP" if labels or _begins(shapes, _IMAGE_CLIP) else inputs_of(channels))
    return None if labels else Family("SD1", inputs_of(channels))


def _begins(names: Shapes, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)


def shapes_in(path: Path) -> Shapes:
    """Return the shapes in a checkpoint's file; AdapterError where it cannot be read."""
    if path.suffix.lower() != ".gguf":
        return opened(path, inert=True).shapes
    try:
        # of the WebUIs those that draw from such files have it
        from gguf import GGUFReader

        # it lists sizes from the last dimension on
        return {each.name: tuple(map(int, reversed(each.shape))) for each in GGUFReader(path).tensors}
    except Exception as error:
        raise AdapterError(f'"{path.name}" cannot be read ({cause(error)}); download it again.') from error


class CheckpointFamilies:
    """The families of files, each read once for each time it was written."""

    def __init__(self) -> None:
        self._known: dict[FileState, Family | None] = {}

    def of(self, path: str | Path) -> Family | None:
        """Return a file's family; None where it does not say, cannot be read, or has gone."""
        try:
            state = FileState.of(str(path))
            if state not in self._known:
                self._known[state] = family_of(shapes_in(Path(path)))
        except (AdapterError, OSError):
            return None
        return self._known[state]
