"""The memory managers of Forge, reForge and Forge Neo: the functions used here."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..webui_types import Patcher


class MemoryManager(Protocol):
    """The subset of the host's memory manager used here."""

    VAE_ALWAYS_TILED: bool
    current_loaded_models: list[Any]

    def load_models_gpu(self, models: Sequence[Patcher], **memory: float) -> None: ...

    def free_memory(self, memory_required: float, device: torch.device) -> Any: ...

    def get_torch_device(self) -> torch.device: ...

    def should_use_fp16(self, device: torch.device, *, prioritize_performance: bool) -> bool: ...

    def cleanup_models(self) -> None: ...

    def soft_empty_cache(self) -> None: ...


class EngineMemory(MemoryManager, Protocol):
    """The subset of the host's memory manager that engines need."""

    def load_model_gpu(self, model: Patcher) -> None: ...

    def text_encoder_device(self) -> torch.device: ...


def freeing(memory: MemoryManager) -> Callable[[], None]:
    """Return a function that releases the memory of models without references."""

    def free() -> None:
        # an engine refers to itself, and so do the remains once the memory manager has dropped its patchers
        gc.collect()
        memory.cleanup_models()
        gc.collect()
        memory.soft_empty_cache()

    return free


def give_way(memory: MemoryManager, main: Patcher, others: Sequence[Patcher]) -> None:
    """Give the main model's patcher the GPU memory that it lacks, from that of the others.

    Managers that load a set of models serve whichever comes first, but the main model is used in all steps.
    """
    entries = {id(entry.model): entry for entry in memory.current_loaded_models}
    loaded = entries.get(id(main))
    if loaded is None:
        return
    lacking, freed = loaded.model_offloaded_memory(), 0.0
    for other in others:
        if freed < lacking and id(other) in entries and other.load_device == main.load_device:
            freed += other.partially_unload(other.offload_device, lacking - freed)
    if freed:
        loaded.model_use_more_vram(freed)
