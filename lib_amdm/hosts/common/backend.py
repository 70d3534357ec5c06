"""A WebUI's answers about its models, in small parts: each WebUI's `backend.py` puts them together for one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from modules import shared
from torch import Tensor, nn

from ...comodels.adapter_use import AtWork
from ...comodels.cache import Loaded, Recent
from ...comodels.weight_swap import Change
from ...families import Family
from ..webui_types import CheckpointInfo, MainModel, Processing


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


class Evaluation(NamedTuple):
    """One evaluation of a slot's model."""

    model: Any
    x: Tensor
    """A latent, (batch, channels, ..., height, width), in the model's own form (`CoRun.form`)."""
    sigma: Tensor
    """Its noise level, (batch,)."""
    step: int
    """The host's own count, from 0."""
    cond: Any
    """Scheduled texts, as the host's prompt parser gives them."""
    uncond: Any
    """The same of the negative prompt; None where it is not needed."""
    cond_scale: float
    texts: Recent
    """The texts that this model has encoded."""
    with_loras: Callable[[], AbstractContextManager[None]]
    """A context in which the slot's LoRAs are in the UNet, once that is where it is evaluated."""
    adapter: AtWork | None


def _nothing(*_: Any) -> None:
    return


def _old_scheduling() -> tuple[Any, ...]:
    return (shared.opts.use_old_scheduling,)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a host. A model is what the host itself calls one: a module on A1111, an engine on Forge."""

    family: Callable[[Any], Family]
    """family(model)"""
    variant: Callable[[], tuple[Any, ...]]
    """The host's options that decide, in addition to the file, how a checkpoint is loaded."""
    load: Callable[[CheckpointInfo, Any, int], Loaded]
    """load(info, main, slot) returns a checkpoint's UNet and text encoder, for the cache; AmdmError where it cannot be
    run beside the main model."""
    model_of: Callable[[Any], Any]
    """The model in what `load` returned."""
    prepare: Callable[[Any, Processing, Any], None]
    """prepare(loaded, p, main) makes a loaded model ready for a pass, as the host does with its main one."""
    sigma_max: Callable[[Any], float]
    """The highest noise level that a model knows; not called for flow models, which know pure noise."""
    runs_flow_models: bool = False
    refuse_main: Callable[[MainModel, str], None] = _nothing
    """refuse_main(main, others) raises AmdmError where only this host knows a reason against co-models. others: their
    names."""
    main_has_other_weights: Callable[[], bool] = lambda: False
    """True once the main model has another checkpoint's weights, and is the same model by its name."""


@dataclass(frozen=True)
class Texts:
    """The text encoders of a host's models."""

    encoding: Callable[[Any], AbstractContextManager[None]]
    """A context in which a model encodes texts, and the host's notes on texts stay the main prompt's."""
    options: Callable[[Any], tuple[Any, ...]]
    """Everything but a text, its schedule and its LoRAs that decides how a model encodes it."""
    loras: Callable[[Any, Sequence[Any], str], SlotLoras]
    """loras(model, named, error_prefix): those that a prompt names, in the form of the host's parser; AmdmError where
    one cannot be used."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The arguments of the host's prompts (`SdConditioning`) in addition to texts and picture size."""
    parser_options: Callable[[], tuple[Any, ...]] = _old_scheduling
    """The arguments that the host gives to its prompt parser after the numbers of steps."""
    needs_negative: Callable[[float], bool] = lambda cfg_scale: True
    """True where the negative prompt is encoded at all. cfg_scale: the slot's own, or 0 for the main model's."""


@dataclass(frozen=True)
class AdapterPlaces:
    """The places in a host's models where adapters work."""

    unet: Callable[[Any], nn.Module]
    phrase_encoder: Callable[[Any], tuple[Any, nn.Module] | None]
    """The host's wrapping of a model's one CLIP, for its tokens, and the CLIP itself; None without adapters for it."""
    phrase_device: Callable[[Any], torch.device]
    """The device that a model's CLIP takes tokens on, in the context `Texts.encoding`."""
    numbers: Callable[[Any], tuple[torch.device, torch.dtype]]
    """Device and dtype of an adapter on a model."""
    image_dtype: Callable[[], torch.dtype]
    """The precision in which reference pictures are encoded."""
    on_main: Callable[[AtWork, Callable[[], None]], Callable[[], None]]
    """on_main(adapter, evaluated) sets an adapter to work on the main model, and returns a function that ends it;
    `evaluated` is called in each of its evaluations."""
    make_room: Callable[[int], None] = _nothing
    """Free this many bytes on the device, where the host has a memory manager for that."""


@dataclass(frozen=True)
class Extensions:
    """Other extensions' functions on the main model."""

    functions: Callable[[], list[Any]]
    """Those that it is evaluated by now."""
    of_classes: Callable[[], list[tuple[str, FunctionType]]]
    """Those among them that act on all models of a class, with the names of what they replace."""
    act_on: Callable[[Any], bool]
    """True where a slot's model is evaluated by any of them too."""


class Evaluator(Protocol):
    """The co-models of a pass, which the host evaluates and moves between devices."""

    def register(self, co_models: Sequence[Any], further: int) -> None:
        """Let the host know of the pass's co-models, the main one not among them, before it plans its memory.

        further: the bytes that the slots' LoRAs will take in the pass.
        """

    def start(self) -> None: ...

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


@dataclass(frozen=True)
class Backend:
    """A host's models, and the rules that it has for its main one, in one pass of one batch."""

    checkpoints: Checkpoints
    texts: Texts
    adapters: AdapterPlaces
    extensions: Extensions
    evaluator: Evaluator
    memory_remedy: str
    """The remedy where the GPU's memory is too small, as the end of a sentence; "" where the host has none."""
    nan_remedy: str
    """The remedy where a model gives NaN."""
    unet_is_final_in_pass: bool = True
    """True where the UNet has the weights that it is evaluated with only in the pass, not when texts are encoded."""
