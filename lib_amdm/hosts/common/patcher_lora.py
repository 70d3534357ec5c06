"""The LoRAs of a slot's own prompt for models in patchers, read and merged by the host's own functions.

The host patches a model's weights for the main prompt. Nothing is added to these patches: the merged weights of a
layer are computed separately, and the layer uses them while the co-model is evaluated.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch

from ...comodels.cache import Recent
from ...comodels.weight_swap import Change
from ...files.container import in_memory, refuse_code
from ...files.state import FileState
from ..webui_types import Engine
from .lora import NamedLoras
from .low_bits import is_packed

Keys = Mapping[str, Any]
Patches = Mapping[Any, Any]


class LayerNames(Protocol):
    """The host's module with a model's layers by their names in LoRA files."""

    def model_lora_keys_unet(self, model: torch.nn.Module, key_map: dict[str, Any]) -> Keys: ...

    def model_lora_keys_clip(self, model: torch.nn.Module, key_map: dict[str, Any]) -> Keys: ...


class LoraFunctions(NamedTuple):
    """The host's own functions for LoRAs: how a file is read, which layers its tensors are for, how they are merged."""

    layers: LayerNames
    tensors_of: Callable[[str], Mapping[str, torch.Tensor]]
    """Returns the tensors of a file."""
    patches_of: Callable[[Mapping[str, torch.Tensor], Keys], Patches]
    """Returns a LoRA's tensors as patches of these layers."""
    merged: Callable[[list[Any], torch.Tensor, str], tuple[torch.Tensor, str]]
    """merged(patches, weight, key): a layer's weight with the patches, in float32, and the host's messages on patches
    that it could not merge."""
    rounded: Callable[[torch.Tensor, torch.dtype, str], torch.Tensor]
    """rounded(merged, dtype, key): a merged weight in this dtype."""
    dtype_of: Callable[[torch.Tensor, Any, Any], torch.dtype] = lambda weight, model, unet: weight.dtype
    """dtype_of(weight, model, unet): the dtype in which the host has a weight of a model with its LoRAs; `unet` may be
    that model."""


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def warnings_of_host(*names: str) -> Iterator[list[str]]:
    """Collect messages logged under these names, "" for the root, during the context.

    Some hosts log that they left a patch out, and go on.
    """
    collector = _Collector()
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(collector)
        if logger.getEffectiveLevel() > logging.WARNING:
            # below the user's log level
            logger.setLevel(logging.WARNING)
    try:
        yield collector.messages
    finally:
        for logger, level in zip(loggers, levels):
            logger.removeHandler(collector)
            logger.setLevel(level)


class PatcherLoras(NamedLoras):
    """The LoRAs of a slot's prompt, on its model (`backend.SlotLoras`)."""

    def __init__(
        self,
        model: Engine,
        texts: Engine,
        named: Sequence[Any],
        error_prefix: str,
        files: Recent,
        functions: LoraFunctions,
    ) -> None:
        """Read the files; AmdmError names one that cannot be used. texts: the model whose text encoder is used."""
        super().__init__(named, error_prefix)
        self.files, self.functions = files, functions
        self.unet = model.forge_objects.unet.model
        self.texts = texts.forge_objects.clip.cond_stage_model
        layers = functions.layers
        keys = layers.model_lora_keys_unet(self.unet, {}), layers.model_lora_keys_clip(self.texts, {})
        weights = [self._read(entry) for entry in self.on_disk]
        self.patches = [tuple(functions.patches_of(tensors, of) for of in keys) for tensors in weights]
        for lora, patches in zip(self.named, self.patches):
            if not any(patches):
                raise self.wrong_family(lora.name)

    @property
    def size_in_pass(self) -> int:
        names = {place[0] if isinstance(place, tuple) else place for unet, _ in self.patches for place in unet}
        weights = [getattr(self.unet.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
        return sum(weight.numel() * max(weight.element_size(), 2) for weight in weights)

    def of_unet(self) -> list[Change]:
        strengths = [lora.unet for lora in self.named]
        return list(self._changes(self.unet, [unet for unet, _ in self.patches], strengths))

    def of_texts(self) -> list[Change]:
        strengths = [lora.te for lora in self.named]
        return list(self._changes(self.texts, [texts for _, texts in self.patches], strengths))

    def _read(self, on_disk: Any) -> Mapping[str, torch.Tensor]:
        def read() -> Mapping[str, torch.Tensor]:
            try:
                refuse_code(on_disk.filename)
                return in_memory(self.functions.tensors_of(on_disk.filename))
            except Exception as error:
                raise self.unreadable(on_disk.name, error) from error

        return self.files.get(FileState.of(on_disk.filename), read)

    @torch.inference_mode()
    def _changes(
        self, model: torch.nn.Module, patches: Sequence[Patches], strengths: Sequence[float]
    ) -> Iterator[Change]:
        """Return the weight of each layer that any of the LoRAs changes, with all of them, in the prompt's order."""
        of_key: dict[str, list[tuple[str, list[Any]]]] = {}
        for lora, patched, strength in zip(self.named, patches, strengths):
            for place, patch in patched.items():
                key, offset, function = (*place, None, None)[:3] if isinstance(place, tuple) else (place, None, None)
                of_key.setdefault(key, []).append((lora.name, [strength, patch, 1.0, offset, function]))
        for key, named in of_key.items():
            layer_name, _, parameter = key.rpartition(".")
            layer = model.get_submodule(layer_name)
            yield Change(layer, parameter, self._merged(key, getattr(layer, parameter), named, model))

    def _merged(
        self, key: str, weight: torch.Tensor, named: Sequence[tuple[str, list[Any]]], model: torch.nn.Module
    ) -> torch.Tensor:
        name = named[0][0]
        if is_packed(weight):
            raise self.error(
                name,
                "cannot be put on weights in low bits; choose a checkpoint that is not quantized (GGUF, nf4), with "
                '"Diffusion in Low Bits" at Automatic, or remove it',
            )
        try:
            merged, said = self.functions.merged([patch for _, patch in named], weight, key)
        except Exception as error:
            raise self.mismatch(name, key, error) from error
        if merged.shape != weight.shape or "MISMATCH" in said:
            raise self.mismatch(name, key, f"it is for another size than {tuple(weight.shape)}")
        if said:
            raise self.mismatch(name, key, said)
        return self.functions.rounded(merged, self.functions.dtype_of(weight, model, self.unet), key)
