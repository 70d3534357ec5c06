"""The pixels in a wanted box that are the thing: by Segment Anything by transformers, or the whole box."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from lib_amdm.layout import Box

from .detector import loaded

SAM, SEGMENTER = "sam", "--segmenter"
"""The model_type of a Segment Anything, and the argument that names its folder."""


class Segmenter(Protocol):
    """A model that cuts out things by their boxes."""

    name: str

    def __call__(self, picture: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        """Return a mask (height, width) of each box's thing."""
        ...


class WholeBox:
    """All pixels of a box: the colour test is easier to pass for a thing that fills its box, and harder otherwise."""

    name = "boxes"

    def __call__(self, picture: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        width, height = picture.size
        masks = []
        for x0, y0, x1, y1 in boxes:
            mask = np.zeros((height, width), bool)
            mask[round(y0 * height) : round(y1 * height), round(x0 * width) : round(x1 * width)] = True
            masks.append(mask)
        return masks


class SegmentAnything:
    """A Segment Anything in transformers' form, such as the files of facebook/sam-vit-huge, in a folder.

    As the published judge does, it takes the best of the model's three answers for the wanted box.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.name, self.device = folder.resolve().name, device
        self.processor, model = loaded(folder, SAM, "SamModel", SEGMENTER)
        self.model = model.to(device).eval()

    @torch.no_grad()
    def __call__(self, picture: Image.Image, boxes: Sequence[Box]) -> list[np.ndarray]:
        if not boxes:
            return []
        scale = np.array([*picture.size, *picture.size], float)
        corners = [[(np.array(box) * scale).tolist() for box in boxes]]
        inputs = self.processor(images=picture, input_boxes=corners, return_tensors="pt")
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        answer = self.model(**inputs.to(self.device), multimask_output=True)
        [masks] = self.processor.image_processor.post_process_masks(answer.pred_masks.cpu(), *sizes)
        best = answer.iou_scores[0].argmax(-1).tolist()
        return [mask[which].numpy() for mask, which in zip(masks, best)]
