"""Image encoders at work: the file that an adapter needs, and the features of reference pictures, which are cached."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..adapters.clip_vision import read_clip_vision
from ..adapters.inputs import Encoder, Features
from ..errors import AdapterError, AmdmError
from ..files import pictures
from ..files.container import open_tensor_file
from ..files.state import FileState
from .cache import Recent
from .file_list import FileList

FEATURES_KEPT = 16


class ImageFeatures:
    """The features of pictures, made with the encoders in a list of files. An encoder is loaded for a single use."""

    def __init__(self, encoders: FileList) -> None:
        self.encoders = encoders
        self.recent = Recent(FEATURES_KEPT)
        self._found: dict[Encoder, FileState] = {}

    def refresh(self) -> None:
        self.encoders.refresh()

    def clear(self) -> None:
        self.recent.clear()

    def of(
        self,
        image: str,
        encoder: Encoder,
        device: torch.device,
        error_prefix: str,
        adapter: str,
        *,
        dtype: torch.dtype = torch.float32,
        make_room: Callable[[int], None] | None = None,
    ) -> Features:
        """Return the features (1, ...) of the picture in a setting's text `image`, on the CPU in float32.

        device, dtype: where and in what precision the encoder runs.
        make_room: called with its size in bytes before it is put there.
        error_prefix, adapter: the beginning of error texts, and the file that they say needs the encoder.

        AmdmError if the picture cannot be read or the encoder is in no folder.
        """
        path = self._file(encoder, error_prefix, adapter)

        def encode() -> Features:
            # both at once, so that the encoder is loaded only once
            model = read_clip_vision(path).to(dtype)
            if make_room is not None:
                make_room(sum(weight.numel() * weight.element_size() for weight in model.parameters()))
            model = model.to(device)
            # shrunk before it becomes floats: a photograph's are hundreds of megabytes
            small = pictures.shrunk(pictures.open_picture(image, error_prefix), model.size)
            pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
            with torch.no_grad():
                features, blank = model.features(pixels.to(device), encoder), model.blank(encoder)
                return Features(features.float().cpu(), blank.float().cpu())

        return self.recent.get((pictures.fingerprint(image), FileState.of(str(path)), encoder.output, dtype), encode)

    def _file(self, encoder: Encoder, error_prefix: str, adapter: str) -> Path:
        """Return the file of the image encoder; the search is repeated only if the file has changed."""
        state = self._found.get(encoder)
        if state is not None and Path(state.path).is_file() and FileState.of(state.path) == state:
            return Path(state.path)
        self.encoders.refresh()
        named = re.compile("big|_g|-g" if "big" in encoder.name else "_h|-h", re.IGNORECASE)
        candidates = sorted(self.encoders.files.items(), key=lambda item: not named.search(item[0]))
        for _, path in candidates:
            if path.is_file() and _fits(path, encoder):
                self._found[encoder] = FileState.of(str(path))
                return path
        raise AmdmError(
            f'{error_prefix}: "{adapter}" needs the image encoder {encoder.name or "that it came with"}, which is in '
            "none of the folders; put CLIP-ViT-H-14.safetensors (for bigG CLIP-ViT-bigG.safetensors) into "
            "models/clip_vision or models/amdm."
        )


def _fits(path: Path, encoder: Encoder) -> bool:
    """Return True for a file of this encoder, by the shapes in it: reading its tensors takes seconds."""
    try:
        shapes = open_tensor_file(path).shapes
    except AdapterError:
        return False

    def size(end: str, dimension: int) -> int | None:
        return next((shape[dimension] for key, shape in shapes.items() if key.endswith(end)), None)

    if encoder.output == "image_embeds":
        widths = (size("visual_projection.weight", 0), size("visual.proj", 1))
    else:
        widths = (size("vision_model.embeddings.class_embedding", 0), size("visual.class_embedding", 0))
    return encoder.width in widths
