"""The settings and co-models that the nodes attach to a model of ComfyUI."""

from __future__ import annotations

from typing import Any, NamedTuple

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...settings import Settings

KEY = "amdm"
"""The key of all that is attached to a model."""


class Connected(NamedTuple):
    """The inputs of a co-model's node. None: the main model, its conditioning, everywhere."""

    patcher: ModelPatcher | None
    positive: list[Any] | None
    negative: list[Any] | None
    mask: Tensor | None  # (n, height, width)


class Attached(NamedTuple):
    """The settings, and the inputs of each of their co-models."""

    settings: Settings = Settings(enabled=True)
    inputs: tuple[Connected, ...] = ()


def of(patcher: ModelPatcher) -> Attached:
    """Return what is attached to a model."""
    return patcher.get_attachment(KEY) or Attached()


def bare(patcher: ModelPatcher) -> ModelPatcher:
    """Return a clone of a model with nothing attached."""
    clone = patcher.clone()
    clone.remove_attachments(KEY)
    clone.remove_additional_models(KEY)
    for kind in clone.wrappers:
        clone.remove_wrappers_with_key(kind, KEY)
    return clone


def family(patcher: ModelPatcher) -> str:
    """Return ComfyUI's name of a model's family."""
    return type(patcher.model.model_config).__name__
