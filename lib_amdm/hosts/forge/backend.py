"""Forge's backend for one pass, by its rules for its own model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from backend import memory_management
from backend.args import args
from backend.sampling.sampling_function import sampling_function
from backend.text_processing import classic_engine
from modules import devices

from ..common import engine_backend, engine_texts, patchers
from ..common.backend import Backend
from ..common.pass_run import PassRun
from ..common.patchers import PatcherEvaluator
from ..webui_types import Engine
from . import checkpoints, lora


def backend(run: PassRun) -> Backend:
    """Make the backend of one pass; models are Forge's engines."""
    denoised = partial(engine_backend.denoised, sampling_function)
    evaluator = PatcherEvaluator(run, memory_management, denoised, _memory_for_pass)
    return Backend(
        engine_backend.checkpoints(checkpoints.LOADER, checkpoints.variant),
        engine_texts.texts(run, evaluator, checkpoints.variant, _encoding, lora.FUNCTIONS, "use_old_scheduling"),
        engine_backend.adapter_places(run, memory_management),
        patchers.extensions(run),
        evaluator,
        engine_backend.autoencoders(evaluator),
        memory_remedy=patchers.remedy_by_flags(
            args, ("always_gpu", "always_high_vram"), 'lower "GPU Weights" at the top of the page'
        ),
        nan_remedy="start the WebUI with --all-in-fp32",
    )


@contextmanager
def _encoding(run: PassRun, model: Engine) -> Iterator[None]:
    before = classic_engine.last_extra_generation_params
    classic_engine.last_extra_generation_params = {}
    try:
        text_encoder = engine_texts.text_encoder_of(run, memory_management, model)
        with torch.inference_mode(), devices.autocast(), text_encoder:
            yield
    finally:
        classic_engine.last_extra_generation_params = before


def _memory_for_pass(sampling: float, further: float) -> dict[str, float]:
    return {"memory_required": sampling, "hard_memory_preservation": further}
