"""The questions that a WebUI must answer about its models: the one slot and the one pass beside this file ask them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ...comodels.adapter_use import AtWork
from ...comodels.cache import Loaded, Recent
from ...comodels.weight_swap import Change
from ...families import Family


class SlotLoras(Protocol):
    """The LoRAs of a slot's own prompt, for its model alone."""

    @property
    def size_in_pass(self) -> int:
        """The bytes that the UNet's other weights will take in the pass, where they are computed in it."""

    key: tuple[Any, ...]
    """Their names, weights and files, as a part of a cache's key."""

    def of_texts(self) -> list[Change]:
        """The text encoder's other weights."""

    def of_unet(self) -> list[Change]:
        """The UNet's other weights."""


class MainAdapter(Protocol):
    """An adapter at work on the main model, from a pass's start to its end."""

    def remove(self) -> None: ...


class Evaluation(NamedTuple):
    """One evaluation of a slot's model.

    x: a latent, (batch, channels, ..., height, width), and sigma: its noise level, (batch,), in the model's own form
    (`sampling.CoRun`). step: the host's own count, from
    0. cond, uncond: scheduled texts, as the host's prompt parser gives them; uncond None where it is not needed. texts:
    what this model has encoded. with_loras: a context in which the slot's LoRAs are in the UNet, once it is where it is
    evaluated. adapter: at work on the UNet in this evaluation.
    """

    model: Any
    x: Tensor
    sigma: Tensor
    step: int
    cond: Any
    uncond: Any
    cond_scale: float
    texts: Recent
    with_loras: Callable[[], AbstractContextManager[None]]
    adapter: AtWork | None


class Backend(Protocol):
    """A host's models, and the rules that it has for its main one, in one pass of one batch.

    A model is whatever the host itself calls one: a module on A1111, an engine on Forge.
    """

    @property
    def memory_remedy(self) -> str:
        """The remedy where the GPU's memory is too small, as the end of a sentence; "" where the host has none."""

    nan_remedy: str
    """The remedy where a model gives NaN."""
    unet_is_final_in_pass: bool
    """True where the UNet has the weights that it is evaluated with only in the pass, not when texts are encoded."""

    # a checkpoint

    def refuse_main(self, others: str) -> None:
        """AmdmError where the method is not made for the main model's kind. others: the co-models' names."""

    def family(self, model: Any) -> Family: ...

    def variant(self) -> tuple[Any, ...]:
        """The host's options that decide, beside the file, how a checkpoint is loaded."""

    def load(self, info: Any, slot: int) -> Loaded:
        """A checkpoint's UNet and text encoder, for the cache; AmdmError where it cannot be run beside the main one."""

    def model_of(self, loaded: nn.Module) -> Any:
        """The model in what `load` gave."""

    def prepare(self, loaded: nn.Module) -> None:
        """Make a loaded model ready for this pass, as the host does with its main one."""

    def sigma_max(self, model: Any) -> float:
        """The highest noise level that a model knows; not asked of flow models, which know pure noise."""

    def main_has_other_weights(self) -> bool:
        """True once the main model has another checkpoint's weights, and is the same model by its name."""

    # its texts

    def encoding(self, model: Any) -> AbstractContextManager[None]:
        """A context in which the model encodes texts, and the host's notes on texts stay the main prompt's."""

    def text_arguments(self) -> dict[str, Any]:
        """The arguments of the host's prompts for a text encoder (`SdConditioning`) beside texts and picture size."""

    def parser_options(self) -> tuple[Any, ...]:
        """The arguments that the host gives to its prompt parser after the numbers of steps."""

    def text_options(self, model: Any) -> tuple[Any, ...]:
        """Everything but a text, its schedule and its LoRAs that decides how this model encodes it."""

    def needs_negative(self, cfg_scale: float) -> bool:
        """True where the negative prompt is encoded at all. cfg_scale: the slot's own, or 0 for the main model's."""

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> SlotLoras:
        """The LoRAs that a prompt names, as the host's parser gives them; AmdmError where one cannot be used."""

    # adapters

    def unet(self, model: Any) -> nn.Module: ...

    def phrase_encoder(self, model: Any) -> tuple[Any, nn.Module] | None:
        """The host's wrapping of the one CLIP, for its tokens, and the CLIP itself; None without adapters for it."""

    def phrase_device(self, model: Any) -> torch.device:
        """The device that this model's CLIP takes tokens on, in the context `encoding`."""

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        """Device and dtype of an adapter on this model."""

    @property
    def image_dtype(self) -> torch.dtype:
        """The precision in which reference pictures are encoded."""

    def make_room(self, size: int) -> None:
        """Free this many bytes on the device, where the host has a memory manager for that."""

    def main_adapter(self, adapter: AtWork, evaluated: Callable[[], None]) -> MainAdapter:
        """Set an adapter to work on the main model; `evaluated` is called in each of its evaluations."""

    # other extensions

    def foreign_functions(self) -> list[Any]:
        """The functions of other extensions that the main model is evaluated by now."""

    def functions_of_classes(self) -> list[tuple[str, FunctionType]]:
        """Those among them that act on all models of a class, with the names of what they replace."""

    def has_foreign_functions(self, model: Any) -> bool:
        """True where a slot's model is evaluated by any of these too."""

    # the pass

    def register(self, co_models: Sequence[Any], further: int) -> None:
        """Let the host know of the pass's co-models, the main one not among them, before it plans its memory.

        further: the bytes that the slots' LoRAs will take in the pass.
        """

    def start(self) -> None:
        """Begin the pass."""

    def finish(self) -> None:
        """End the pass, however it went."""

    def drop(self) -> None:
        """Refer to no co-model any more, in the middle of a pass: its memory is needed."""

    def cond_scale(self, cfg_scale: float) -> float:
        """The guidance scale of an evaluation. cfg_scale: the slot's own, or 0 for the main model's."""

    def denoised(self, evaluation: Evaluation) -> Tensor:
        """The denoised latent after guidance, as the host's own denoiser gives it for its main model."""

    def park(self, model: Any, adapter: AtWork | None) -> None:
        """Make room on the GPU after the early steps, where the host does not do so by itself."""
