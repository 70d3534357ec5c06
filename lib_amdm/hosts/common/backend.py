"""The parts that a WebUI must provide for its models; its `backend.py` combines them for one pass."""

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
from ...comodels.placing import one_device
from ...comodels.weight_swap import Change
from ...core.arguments import Prediction
from ...families import Family
from ..webui_types import CheckpointInfo, MainModel, Processing
from .autoencoders import PassAutoencoder


class SlotLoras(Protocol):
    """The LoRAs of a slot's own prompt, for its model alone."""

    @property
    def size_in_pass(self) -> int:
        """The bytes that the UNet's other weights will take, if they are computed in the pass."""

    key: tuple[Any, ...]
    """The LoRAs' names, weights and files, as a part of a cache's key."""

    def of_texts(self) -> list[Change]:
        """Return the text encoder's other weights."""

    def of_unet(self) -> list[Change]:
        """Return the UNet's other weights."""


class Evaluation(NamedTuple):
    """One evaluation of a slot's model."""

    model: Any
    x: Tensor
    """A latent, (batch, channels, ..., height, width), in the model's own form (`CoRun.form`)."""
    sigma: Tensor
    """Its noise level, (batch,)."""
    step: int
    """The step by the host's own count, from 0."""
    cond: Any
    """Scheduled texts from the host's prompt parser."""
    uncond: Any
    """The same for the negative prompt; None if it is not needed."""
    cond_scale: float
    texts: Recent
    """The texts that this model has encoded."""
    with_loras: Callable[[], AbstractContextManager[None]]
    """A context in which the slot's LoRAs are in the UNet, to be entered once the UNet is in place."""
    adapter: AtWork | None
    is_foreign: bool = False
    """True if its latents are of another space than the main model's, and of another size."""


TEXT_OPTIONS = (
    "emphasis",
    "CLIP_stop_at_last_layers",
    "sdxl_crop_left",
    "sdxl_crop_top",
    "sdxl_refiner_low_aesthetic_score",
    "sdxl_refiner_high_aesthetic_score",
)
"""The WebUIs' options that decide how a text is encoded, of those that all of them have."""


def text_options(*further: str) -> tuple[Any, ...]:
    """Return the values of these options and of further ones, as a part of a cache's key."""
    return tuple(getattr(shared.opts, name) for name in (*TEXT_OPTIONS, *further))


def _nothing(*_: Any) -> None:
    return


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a host. A model is the host's own object: a module on A1111, an engine on Forge."""

    family: Callable[[Any], Family]
    """family(model)"""
    variant: Callable[[], tuple[Any, ...]]
    """The host's options that decide, in addition to the file, how a checkpoint is loaded."""
    load: Callable[[CheckpointInfo, Any, int, Sequence[str], torch.device | None], Loaded]
    """load(info, main, slot, modules, device) returns a checkpoint's UNet and text encoder, for the cache, and its VAE
    if its latents are not the main model's; AmdmError if it cannot be combined with that one. modules: the names of the
    files of its missing parts. device: the UNet's if it is another than the main model's, or None."""
    model_of: Callable[[Any], Any]
    """Returns the model in the result of `load`."""
    prepare: Callable[[Any, Processing, Any], None]
    """prepare(loaded, p, main) makes a loaded model ready for a pass, as the host does with its main one."""
    sigma_max: Callable[[Any], float]
    """The highest noise level that a model knows; not called for flow models, which know pure noise."""
    refuse_main: Callable[[MainModel, str], None] = _nothing
    """refuse_main(main, others) raises AmdmError for this host's own reasons against co-models. others: their names."""
    takes_modules: bool = False
    """True if `load` uses the modules; otherwise their names change nothing."""
    reason_against: Callable[[torch.device], str] = one_device
    """Returns why a co-model's UNet cannot be on another device than the main model's, or ""."""
    main_has_other_weights: Callable[[], bool] = lambda: False
    """True once the main model has another checkpoint's weights under the same name."""


@dataclass(frozen=True)
class Texts:
    """The text encoders of a host's models."""

    encoding: Callable[[Any], AbstractContextManager[None]]
    """A context in which a model encodes texts, and the host's notes remain those on the main prompt."""
    options: Callable[[Any], tuple[Any, ...]]
    """Everything that affects how a model encodes a text, besides the text, its schedule and its LoRAs."""
    loras: Callable[[Any, Sequence[Any], str], SlotLoras]
    """loras(model, named, error_prefix): those in a prompt, in the form of the host's parser; AmdmError if one cannot
    be used."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The arguments of the host's prompts (`SdConditioning`) in addition to texts and picture size."""
    parser_options: Callable[[], tuple[Any, ...]] = lambda: (shared.opts.use_old_scheduling,)
    """The arguments that the host gives to its prompt parser after the numbers of steps."""
    needs_negative: Callable[[float], bool] = lambda cfg_scale: True
    """True if the negative prompt is encoded. cfg_scale: the slot's own, or 0 for the main model's."""


@dataclass(frozen=True)
class AdapterPlaces:
    """The places in a host's models where adapters act."""

    unet: Callable[[Any], nn.Module]
    phrase_encoder: Callable[[Any], tuple[Any, nn.Module] | None]
    """The host's wrapping of a model's one CLIP, for its tokens, and the CLIP itself; None without adapters for it."""
    phrase_device: Callable[[Any], torch.device]
    """The device of a model's CLIP's tokens in the context `Texts.encoding`."""
    numbers: Callable[[Any], tuple[torch.device, torch.dtype]]
    """Device and dtype of an adapter on a model."""
    image_dtype: Callable[[torch.device], torch.dtype]
    """The precision in which reference pictures are encoded on a device."""
    on_main: Callable[[AtWork, Callable[[], None]], Callable[[], None]]
    """on_main(adapter, evaluated) sets an adapter to work on the main model, and returns a function that ends it;
    `evaluated` is called in each of its evaluations."""
    make_room: Callable[[torch.device, int], None] = _nothing
    """make_room(device, size) frees this many bytes there, if the host has a memory manager for that."""


@dataclass(frozen=True)
class Extensions:
    """Other extensions' functions on the main model."""

    functions: Callable[[], list[Any]]
    """The functions that take part in its evaluations now."""
    of_classes: Callable[[], list[tuple[str, FunctionType]]]
    """Those that act on all models of a class, with the names of the replaced methods."""
    act_on: Callable[[Any], bool]
    """True if any of them takes part in a slot's evaluation too."""


class Evaluator(Protocol):
    """The co-models of a pass, which the host evaluates and moves between devices."""

    def register(self, co_models: Sequence[Any], further: int) -> None:
        """Tell the host about the pass's co-models, without the main model, before it plans its memory.

        further: the bytes that the slots' LoRAs will take in the pass.
        """

    def start(self) -> None: ...

    def finish(self) -> None:
        """End the pass, also after an error."""

    def drop(self) -> None:
        """Drop all references to co-models during a pass, since their memory is needed."""

    @property
    def main_cfg_scale(self) -> float:
        """The CFG scale of this pass as the user set it, also before its sampler has begun."""

    def cond_scale(self, cfg_scale: float) -> float:
        """Return the guidance scale of an evaluation. cfg_scale: the slot's own, or 0 for the main model's."""

    def main_base(self) -> Tensor | None:
        """Return the main model's last output without its prompt; None if it ran without guidance."""

    def denoised(self, evaluation: Evaluation) -> Prediction:
        """Return the denoised latent after guidance, as the host's own denoiser would for its main model."""

    def main_in_place(self) -> None:
        """Have the main model ready again, if other models' work may have moved it."""

    def park(self, model: Any, adapter: AtWork | None) -> None:
        """Make room on the GPU after the early steps, if the host does not do so itself."""


@dataclass(frozen=True)
class Backend:
    """A host's models, and its rules for the main one, in one pass of one batch."""

    checkpoints: Checkpoints
    texts: Texts
    adapters: AdapterPlaces
    extensions: Extensions
    evaluator: Evaluator
    autoencoder: Callable[[Any], PassAutoencoder]
    """Returns a model's autoencoder; called for the main model, and for co-models of another latent space."""
    memory_remedy: str
    """The remedy for too little GPU memory, as the end of a sentence, or ""."""
    nan_remedy: str
    """The remedy for a model that gives NaN."""
    unet_is_final_in_pass: bool = True
    """True if the UNet gets its final weights only in the pass, after texts are encoded."""
