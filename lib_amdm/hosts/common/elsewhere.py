"""Co-models of Forge, reForge and Forge Neo on another device than the main model.

Their memory managers bring each UNet to the device that its patcher names, so only a co-model's patcher is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..webui_types import Patcher
from . import refusals
from .low_bits import is_packed
from .memory_managers import MemoryManager

ON_CPU = ("attention_basic", "attention_pytorch", "attention_split", "attention_sub_quad")
"""The hosts' functions for attention that also work on the CPU."""


@dataclass(frozen=True)
class Elsewhere:
    """A host's names for what decides where and how a UNet is evaluated."""

    memory: MemoryManager
    attention: Callable[..., Any]
    """The host's function for attention in all models."""
    computed_in: str = "computation_dtype"
    """The attribute of a model that is the dtype in which it computes; by default Forge's and Forge Neo's."""
    casts: str = "parameters_manual_cast"
    """The attribute of a layer that is True if it casts its weights to the dtype of its input; by default the same."""

    def reason_against(self, device: torch.device) -> str:
        """Return why a UNet cannot be evaluated on a device, or ""."""
        name = self.attention.__name__
        if device.type != "cpu" or name in ON_CPU:
            return ""
        return f'the WebUI\'s attention, "{name.removeprefix("attention_")}", works on GPUs alone'

    def put(self, unet: Patcher, device: torch.device, slot: int, name: str) -> None:
        """Have the memory manager bring a UNet to a device, and otherwise to the computer's memory.

        slot, name: of the checkpoint, for the AmdmError if it cannot be there.
        """
        unet.load_device, unet.offload_device = device, torch.device("cpu")
        if device.type == "cpu":
            if any(is_packed(weight) for weight in unet.model.parameters()):
                raise refusals.packed_on_cpu(slot, name)
            # not every layer has half precision there
            setattr(unet.model, self.computed_in, torch.float32)
            for layer in unet.model.modules():
                if hasattr(layer, self.casts):
                    setattr(layer, self.casts, True)
        # the loader may have brought it to the main model's device
        for entry in [entry for entry in self.memory.current_loaded_models if entry.model is unet]:
            self.memory.current_loaded_models.remove(entry)
            entry.model_unload()
        unet.model.to(unet.offload_device)
