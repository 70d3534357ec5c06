"""Forge's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management
from backend.args import args
from backend.sampling.sampling_function import sampling_function
from backend.text_processing import classic_engine
from modules import devices, shared

from ..common.engine_backend import EngineBackend
from . import checkpoints, lora


class ForgeBackend(EngineBackend):
    """Models are Forge's engines."""

    memory = memory_management

    @property
    def memory_remedy(self) -> str:
        for flag in ("always_gpu", "always_high_vram"):
            if getattr(args, flag):
                return f"start the WebUI without --{flag.replace('_', '-')}"
        return 'lower "GPU Weights" at the top of the page'

    nan_remedy = "start the WebUI with --all-in-fp32"
    loader = checkpoints.LOADER
    lora_functions = lora.ForgeLoras()
    guided = staticmethod(sampling_function)

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        kept = classic_engine.last_extra_generation_params
        classic_engine.last_extra_generation_params = {}
        try:
            with torch.inference_mode(), devices.autocast(), self.text_encoder_of(model):
                yield
        finally:
            classic_engine.last_extra_generation_params = kept

    def memory_for_pass(self, sampling: float, further: float) -> dict[str, float]:
        return {"memory_required": sampling, "hard_memory_preservation": further}

    def host_text_options(self) -> tuple[Any, ...]:
        opts = shared.opts
        return (
            opts.use_old_scheduling,
            opts.emphasis,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
        )
