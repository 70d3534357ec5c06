"""The memory managers of Forge's kin, as far as they are asked, and what is given back to them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from ..webui_types import Patcher


class MemoryManager(Protocol):
    """The host's module of this job, as far as it is asked."""

    current_loaded_models: list[Any]

    def load_models_gpu(self, models: Sequence[Patcher], **memory: float) -> None: ...

    def free_memory(self, memory_required: float, device: torch.device) -> Any: ...

    def get_torch_device(self) -> torch.device: ...

    def should_use_fp16(self, device: torch.device, *, prioritize_performance: bool) -> bool: ...

    def cleanup_models(self) -> None: ...

    def soft_empty_cache(self) -> None: ...


class EngineMemory(MemoryManager, Protocol):
    """The host's module of this job, as far as engines need it."""

    def load_model_gpu(self, model: Patcher) -> None: ...

    def text_encoder_device(self) -> torch.device: ...


def freeing(memory: MemoryManager) -> Callable[[], None]:
    """A function that gives back the memory of models that nothing refers to any more."""

    def free() -> None:
        # an engine refers to itself, and so does what is left once the memory manager has let go of its patchers
        gc.collect()
        memory.cleanup_models()
        gc.collect()
        memory.soft_empty_cache()

    return free


def give_way(memory: MemoryManager, main: Patcher, others: Sequence[Patcher]) -> None:
    """Let the main model's patcher have what it lacks on the GPU of the others' room there.

    Managers that load a set of models give the room to whichever comes first, but the main model has all the steps.
    """
    entries = {id(entry.model): entry for entry in memory.current_loaded_models}
    loaded = entries.get(id(main))
    if loaded is None:
        return
    lacking, freed = loaded.model_offloaded_memory(), 0.0
    for other in others:
        if freed < lacking and id(other) in entries:
            freed += other.partially_unload(other.offload_device, lacking - freed)
    if freed:
        loaded.model_use_more_vram(freed)
