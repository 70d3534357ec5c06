"""The family of a checkpoint by the names and shapes in its file, before anything is loaded.

A host knows a checkpoint's family once it has loaded it, and has the last word; this is for lists of files. A file of
which nothing certain can be said has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import FileError, cause
from ..families import FLOW_KINDS, TEXT_WIDTHS, Family, FlowKind, flow_family, unet_family, wan_family
from .container import open_tensor_file

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
"""Beginnings of the names of a network's weights, by who wrote the file."""
_FIRST, _LAST, _LABELS = "input_blocks.0.0.weight", "out.2.weight", "label_emb.0.0.weight"
_READS_TEXT = "attn2.to_k.weight"
_SDXL_LABELS = (2816, 2560)
"""Widths of what an SDXL, or its refiner, has in addition to the text."""
_SDXL_TEXTS, _OPEN_CLIP, _IMAGE_CLIP = "conditioner.embedders.", "cond_stage_model.model.", "embedder.model."
"""Beginnings of the names of text encoders' weights: SDXL's, SD2's, and unCLIP's of pictures."""
_MUGEN_CHANNELS = 32
_WAN_FIRST, _WAN_LAST, _WAN_PATCH = "patch_embedding.weight", "head.head.weight", 4
"""The first and the last weight of a Wan, and the number of a frame's pixels that these see as one."""


def family_of(shapes: Shapes) -> Family | None:
    """Return the family of a checkpoint with these weights, or None if it is unclear."""
    prefix = next(
        beginning for beginning in PREFIXES if any(name.startswith(beginning) for name in shapes) or not beginning
    )
    network = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    try:
        if _FIRST in network:
            return _of_unet(network, shapes)
        family = next((flow_family(kind.name) for kind in FLOW_KINDS if _has_mark(network, kind)), None)
        if family and {_WAN_FIRST, _WAN_LAST} <= network.keys():
            return wan_family(network[_WAN_FIRST][1], network[_WAN_LAST][0] // _WAN_PATCH)
        return family
    except IndexError:  # fewer dimensions than such weights have
        return None


def _has_mark(network: Shapes, kind: FlowKind) -> bool:
    shapes = [shape for name, shape in network.items() if name.startswith(kind.marks)]
    return bool(shapes) and (not kind.width or shapes[0][0] == kind.width)


def _of_unet(unet: Shapes, shapes: Shapes) -> Family | None:
    channels, outputs = unet[_FIRST][1], unet.get(_LAST, (0,))[0]
    labels = unet.get(_LABELS, (0, 0))[1]
    if labels in _SDXL_LABELS or _begins(shapes, _SDXL_TEXTS):
        if outputs == _MUGEN_CHANNELS:
            return flow_family("Mugen")
        return unet_family("SDXL", channels, outputs=outputs)
    kinds = {TEXT_WIDTHS.get(shape[1]) for name, shape in unet.items() if name.endswith(_READS_TEXT)}
    if "SD2" in kinds or _begins(shapes, _OPEN_CLIP):
        has_labels = bool(labels) or _begins(shapes, _IMAGE_CLIP)
        return unet_family("SD2", channels, has_labels, outputs=outputs)
    return None if labels else unet_family("SD1", channels, outputs=outputs)


def _begins(names: Shapes, beginning: str) -> bool:
    return any(name.startswith(beginning) for name in names)


def shapes_in(path: Path) -> Shapes:
    """Return the shapes in a checkpoint's file; FileError if it cannot be read."""
    if path.suffix.lower() != ".gguf":
        return open_tensor_file(path, inert=True).shapes
    try:
        # of the WebUIs those that draw from such files have it
        from gguf import GGUFReader

        # it lists sizes from the last dimension on
        return {tensor.name: tuple(map(int, reversed(tensor.shape))) for tensor in GGUFReader(path).tensors}
    except Exception as error:
        raise FileError(f'"{path.name}" cannot be read ({cause(error)}); download it again.') from error


def family_in(path: Path) -> Family | None:
    """Return the family of a file; None if it is unclear, or the file cannot be read."""
    try:
        return family_of(shapes_in(path))
    except (FileError, OSError):
        return None
