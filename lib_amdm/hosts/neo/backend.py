"""Forge Neo's backend for one pass, by its rules for its own model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from backend import memory_management
from backend.args import args, dynamic_args
from backend.sampling.sampling_function import sampling_function
from modules import devices, sd_samplers_common

from ...errors import AmdmError
from ..common import engine_backend, engine_texts, patchers
from ..common.backend import Backend
from ..common.pass_run import PassRun
from ..common.patchers import PatcherEvaluator
from ..webui_types import Engine, MainModel
from . import checkpoints, lora


def backend(run: PassRun) -> Backend:
    """Make the backend of one pass; models are Forge Neo's engines."""
    # the main model's file when it got a refiner's weights, or None
    replaced = sd_samplers_common.ORIGINAL_CHECKPOINT
    denoised = partial(engine_backend.denoised, sampling_function, may_skip_first=False)
    evaluator = PatcherEvaluator(
        run, memory_management, denoised, _memory_for_pass, gives_way=True, in_pass=_main_first
    )
    return Backend(
        replace(
            engine_backend.checkpoints(checkpoints.LOADER, checkpoints.variant),
            prepare=checkpoints.prepare,
            refuse_main=partial(_refuse_main, run),
            main_has_other_weights=lambda: replaced != sd_samplers_common.ORIGINAL_CHECKPOINT,
        ),
        replace(
            engine_texts.texts(run, evaluator, checkpoints.variant, _encoding, lora.FUNCTIONS, "sdxl_zero_neg"),
            parser_options=tuple,
        ),
        engine_backend.adapter_places(run, memory_management),
        patchers.extensions(run),
        evaluator,
        engine_backend.autoencoders(evaluator),
        memory_remedy=patchers.remedy_by_flags(args, ("gpu_only", "highvram"), 'lower "GPU Weights" in the settings'),
        nan_remedy="start the WebUI with --force-fp32",
    )


def _refuse_main(run: PassRun, main: MainModel, others: str) -> None:
    """Raise AmdmError for a video, and for a picture after reference pictures."""
    x = run.hook["x"]
    # (batch, channels, time, height, width)
    if x.ndim == 5 and x.shape[2] > 1:
        raise AmdmError(
            f'AMDM: the main checkpoint "{main.sd_checkpoint_info.name}" draws a video, which cannot be run together '
            f"with {others}; choose a batch size of 1, which is one picture, or switch AMDM off."
        )
    if dynamic_args.ref_latents:
        raise AmdmError(
            f'AMDM: the main checkpoint "{main.sd_checkpoint_info.name}" draws by reference pictures, '
            f"which a co-model ({others}) does not know; switch AMDM off or draw without them."
        )


@contextmanager
def _encoding(run: PassRun, model: Engine) -> Iterator[None]:
    text_encoder = engine_texts.text_encoder_of(run, memory_management, model)
    with checkpoints.globals_kept(), torch.inference_mode(), devices.autocast(), text_encoder:
        yield


def _memory_for_pass(sampling: float, further: float) -> dict[str, float]:
    return {"memory_required": sampling + further, "minimum_memory_required": sampling // 2 + further}


@contextmanager
def _main_first(evaluator: PatcherEvaluator) -> Iterator[None]:
    """Keep the co-models' UNets at the end of the host's list.

    When the host switches only the weights for a refiner, and back, it takes the first UNet in its list as the main
    one.
    """

    def sort(*_: Any) -> None:
        ours = {id(unet) for unet in evaluator.own_unets}
        # a stable order: False comes before True
        memory_management.current_loaded_models.sort(key=lambda entry: id(entry.model) in ours)

    order = evaluator.run.denoiser.register_forward_pre_hook(sort)
    try:
        yield
    finally:
        order.remove()
        sort()
