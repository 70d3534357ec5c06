"""The memory managers of Forge's kin, as far as they are asked, and what is given back to them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch


class MemoryManager(Protocol):
    """The host's module of this job, as far as it is asked."""

    current_loaded_models: list[Any]

    def load_models_gpu(self, models: Sequence[Any], memory_required: float) -> None: ...


class EngineMemory(MemoryManager, Protocol):
    """The host's module of this job, as far as engines need it."""

    def load_model_gpu(self, model: Any) -> None: ...

    def text_encoder_device(self) -> torch.device: ...

    def get_torch_device(self) -> torch.device: ...

    def cleanup_models(self) -> None: ...

    def soft_empty_cache(self) -> None: ...


def freeing(memory: EngineMemory) -> Callable[[], None]:
    """A function that gives back the memory of engines that nothing refers to any more."""

    def free() -> None:
        # an engine refers to itself, and the memory manager keeps what is referred to
        gc.collect()
        memory.cleanup_models()
        memory.soft_empty_cache()

    return free
