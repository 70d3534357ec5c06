"""Grounding DINO, by transformers: the boxes of what a phrase names in a picture."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from lib_amdm.errors import AmdmError, cause

from ..records import read_json
from .published import LEAST_SCORE, SUPPRESSED_OVERLAP

DINO, DETECTOR = "grounding-dino", "--detector"
"""The model_type of a Grounding DINO, and the argument that names its folder."""


@dataclass(frozen=True)
class Detections:
    """Boxes (n, 4) as shares of the picture's width and height, x0, y0, x1, y1, and their scores (n,)."""

    boxes: np.ndarray
    scores: np.ndarray


class Detector(Protocol):
    """A detector of what a phrase names in a picture."""

    name: str

    def __call__(self, picture: Image.Image, phrase: str) -> Detections: ...


class GroundingDino:
    """A Grounding DINO in transformers' form, such as the files of IDEA-Research/grounding-dino-tiny, in a folder.

    The published judge uses this Swin-T model. A detection has a score above the published bar. As there, it may stand
    for any of the phrase's words.
    """

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.name, self.device = folder.resolve().name, device
        self.processor, model = loaded(folder, DINO, "GroundingDinoForObjectDetection", DETECTOR)
        self.model = model.to(device).eval()

    @torch.no_grad()
    def __call__(self, picture: Image.Image, phrase: str) -> Detections:
        inputs = self.processor(images=picture, text=f"{phrase.lower()}.", return_tensors="pt").to(self.device)
        answer = self.model(**inputs)
        scores = answer.logits[0].sigmoid().amax(-1).float().cpu()
        boxes = _corners(answer.pred_boxes[0].float().cpu())
        above = scores > LEAST_SCORE
        scores, boxes = scores[above], boxes[above]
        best = _not_suppressed(boxes, scores)
        return Detections(boxes[best].numpy(), scores[best].numpy())


def _corners(boxes: torch.Tensor) -> torch.Tensor:
    middle, size = boxes[:, :2], boxes[:, 2:]
    return torch.cat([middle - size / 2, middle + size / 2], -1)


def _not_suppressed(boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    from torchvision.ops import nms

    return nms(boxes, scores, SUPPRESSED_OVERLAP)


def check(folder: Path, kind: str, argument: str) -> None:
    """Raise AmdmError if a folder has no such model, by what can be seen without loading it.

    kind: the model_type in its config.json. argument: the folder's on the command line.
    """
    if importlib.util.find_spec("transformers") is None:
        raise AmdmError(
            f'{argument} needs the Python package transformers; install it with: pip install "transformers>=4.50,<6".'
        )
    config = folder / "config.json"
    if not config.is_file():
        raise AmdmError(
            f'{argument}: "{folder}" is no folder of a model, with config.json, weights and processor; download '
            "one, and name its folder."
        )
    model_type = read_json(config, "a model's folder").get("model_type")
    if model_type != kind:
        raise AmdmError(f'{argument}: "{folder}" is a model of another kind ({model_type}); name one of {kind}.')


def loaded(folder: Path, kind: str, model: str, argument: str) -> tuple[Any, Any]:
    """Load a processor and a model from a folder, of which `check` says what is missing. model: transformers' class."""
    check(folder, kind, argument)
    import transformers

    try:
        processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
        return processor, getattr(transformers, model).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise AmdmError(f'{argument}: "{folder}" cannot be loaded ({cause(error)}); download it again.') from error
