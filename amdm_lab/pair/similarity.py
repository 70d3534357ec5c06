"""The similarity of a picture to a text, and to another picture, by a CLIP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lib_amdm.errors import AmdmError, cause

_EXTRA_NETWORKS = re.compile(r"<[^<>]*>")
"""Tags in a WebUI's prompt that do not describe the picture."""


class Clip:
    """A CLIP with its processor in a folder of transformers' layout; nothing is downloaded."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel, CLIPProcessor

        try:
            if not folder.is_dir():
                raise NotADirectoryError("no such folder")
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise AmdmError(
                f'--clip "{folder.name}" has no CLIP in it that transformers can read ({cause(error)}); name a folder '
                "with its config.json, model.safetensors, preprocessor_config.json and tokenizer."
            ) from error

    @torch.no_grad()
    def view(self, picture: Image.Image, texts: Sequence[str]) -> tuple[Tensor, list[float]]:
        """Return a picture's features, of length 1, and its cosine to each text, from -1 to 1."""
        plain = [_EXTRA_NETWORKS.sub("", text) for text in texts]
        inputs = self.processor(text=plain, images=picture, return_tensors="pt", padding=True, truncation=True)
        answer = self.model(**inputs)
        return answer.image_embeds[0], (answer.text_embeds @ answer.image_embeds[0]).tolist()
