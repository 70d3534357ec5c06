"""The texts of engines, the models of Forge and Forge Neo: with a model's own text encoder, or the main model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from modules import shared

from ...files.state import FileState
from ..webui_types import Engine
from .backend import Texts, text_options
from .memory_managers import EngineMemory
from .pass_run import PassRun
from .patcher_lora import LoraFunctions, PatcherLoras
from .patchers import PatcherEvaluator, text_options_of_main


class NoTextEncoder(torch.nn.Module):
    """A stand-in for a text encoder that an engine borrows for each text."""

    def __init__(self, parts: Mapping[str, torch.nn.Module]) -> None:
        """Keep `parts`, those of the encoder that the checkpoint has."""
        super().__init__()
        self.own = torch.nn.ModuleDict(parts)
        # only the attributes that the hosts' engines read when they are made
        self.transformer, embeddings = torch.nn.Module(), torch.nn.Module()
        self.transformer.text_model = torch.nn.Module()
        self.transformer.text_model.embeddings = embeddings
        embeddings.token_embedding = torch.nn.Embedding(1, 1)


def borrows_texts(engine: Engine) -> bool:
    """Return True if this engine uses the main model's text encoder."""
    return any(isinstance(child, NoTextEncoder) for child in engine.forge_objects.clip.cond_stage_model.children())


@contextmanager
def with_texts_of(main: Engine, engine: Engine, device: torch.device) -> Iterator[None]:
    """Let an engine encode texts with the text encoder of the main one, of its class, during the context.

    It is borrowed no longer than that, since the host may unload the main model at any time. It has none of the main
    prompt's LoRAs. device: where it encodes.
    """
    clip, borrowed = engine.forge_objects.clip, main.forge_objects_original.clip
    names = [name for name in vars(engine) if name.startswith("text_processing_engine")]
    changes: list[tuple[Any, str, Any]] = [(engine, name, getattr(main, name)) for name in names]
    changes.append((engine.forge_objects, "clip", borrowed))
    for name, empty in clip.cond_stage_model.named_children():
        encoder = getattr(borrowed.cond_stage_model, name)
        changes += [(encoder, part, module.to(device)) for part, module in empty.own.items()]
    before = [(of, name, getattr(of, name)) for of, name, _ in changes]
    try:
        for of, name, value in changes:
            setattr(of, name, value)
        yield
    finally:
        for of, name, value in before:
            setattr(of, name, value)


@contextmanager
def text_encoder_of(run: PassRun, memory: EngineMemory, model: Engine) -> Iterator[None]:
    """Have a model's text encoder, or the main model's if it has none, on the device during the context."""
    borrows = borrows_texts(model)
    clip = (run.main.forge_objects_original if borrows else model.forge_objects).clip
    # while it has its own parts, from which the main prompt's LoRAs are removed. A layout's phrases are encoded by
    # the encoder itself, and not by the engine, which would bring it
    memory.load_model_gpu(clip.patcher)
    device = memory.text_encoder_device()
    with with_texts_of(run.main, model, device) if borrows else nullcontext():
        model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        yield


def texts(
    run: PassRun,
    evaluator: PatcherEvaluator,
    variant: Callable[[], tuple[Any, ...]],
    encoding: Callable[[PassRun, Engine], AbstractContextManager[None]],
    functions: LoraFunctions,
    option: str,
) -> Texts:
    """Return a host's texts. option: the one option for them that it has beyond those of all WebUIs."""
    return Texts(
        encoding=partial(encoding, run),
        options=lambda model: (*text_options(option), *_options(run, model, variant)),
        loras=partial(_loras, run, functions),
        arguments=_distilled_guidance(run),
        needs_negative=lambda cfg_scale: evaluator.cond_scale(cfg_scale) != 1,
    )


def _distilled_guidance(run: PassRun) -> dict[str, Any]:
    """Return the additional argument of flow models' prompts."""
    p = run.p
    return {"distilled_cfg_scale": p.hr_distilled_cfg if p.is_hr_pass else p.distilled_cfg_scale}


def _options(run: PassRun, model: Engine, variant: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return what decides, with the host's options, how a model encodes a text."""
    if model is run.main or not borrows_texts(model):
        return text_options_of_main(run, model, variant)
    return (*variant(), FileState.of_loaded(run.main.sd_checkpoint_info.filename))


def _loras(
    run: PassRun, functions: LoraFunctions, model: Engine, named: Sequence[Any], error_prefix: str
) -> PatcherLoras:
    texts = run.main if borrows_texts(model) else model
    return PatcherLoras(model, texts, named, error_prefix, run.kept.lora_files, functions)


def phrase_encoder(run: PassRun, model: Engine) -> tuple[Any, torch.nn.Module]:
    """Return the wrapping of an SD1's one CLIP, and the CLIP itself."""
    engine = (run.main if borrows_texts(model) else model).text_processing_engine
    return engine, engine.text_encoder.transformer


def phrase_device(run: PassRun, memory: EngineMemory, model: Engine) -> torch.device:
    device = memory.text_encoder_device()
    embeddings: Any = phrase_encoder(run, model)[1].get_submodule("text_model.embeddings")
    # as the host does before it encodes: its loader may leave this buffer behind
    embeddings.position_ids = embeddings.position_ids.to(device)
    return device
