"""Forge's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_function
from backend.text_processing import classic_engine
from modules import devices, prompt_parser, shared

from ...comodels.cache import Loaded
from ...families import Family
from ..common.backend import Evaluation
from ..common.patcher_lora import PatcherLoras
from ..common.patchers import PatcherBackend
from . import checkpoints, lora


class ForgeBackend(PatcherBackend):
    """Models are Forge's engines."""

    memory = memory_management
    memory_remedy = 'lower "GPU Weights" at the top of the page'
    nan_remedy = "start the WebUI with --all-in-fp32"

    def family(self, model: Any) -> Family:
        return checkpoints.LOADER.family_of(model)

    def variant(self) -> tuple[Any, ...]:
        return checkpoints.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return checkpoints.LOADER.load(info, self.run.main, slot)

    def sigma_max(self, model: Any) -> float:
        return float(model.forge_objects.unet.model.predictor.sigma_max)

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        kept = classic_engine.last_extra_generation_params
        classic_engine.last_extra_generation_params = {}
        model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        try:
            with torch.inference_mode(), devices.autocast():
                # a layout's phrases are asked of the encoder itself, and not of the engine, which would bring it
                memory_management.load_model_gpu(model.forge_objects.clip.patcher)
                yield
        finally:
            classic_engine.last_extra_generation_params = kept

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

    def needs_negative(self, cfg_scale: float) -> bool:
        return self.cond_scale(cfg_scale) != 1

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        return PatcherLoras(model, named, error_prefix, self.run.kept.lora_files, lora.HostLoras())

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        # an engine with one text encoder is an SD1's
        engine = getattr(model, "text_processing_engine", None)
        return (engine, engine.text_encoder.transformer) if engine else None

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        return memory_management.get_torch_device(), model.forge_objects.unet.model.computation_dtype

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        run, x, sigma, step = self.run, evaluation.x, evaluation.sigma, evaluation.step
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        negative = evaluation.uncond
        uncond = None if negative is None else prompt_parser.reconstruct_cond_batch(negative, step)
        cond_scale = 1.0 if run.skips_uncond(step, sigma) else evaluation.cond_scale
        with self.at_work(evaluation):
            shown = self._with_known_region(x, sigma)
            inputs = self.guidance_inputs(evaluation, shown, cond, uncond)
            denoised, _, _ = sampling_function(*inputs, cond_scale, parts)
        denoised = run.masked(denoised, sigma)
        # timestep samplers are answered with the noise in what the model was shown
        return x + denoised - shown if run.on_timesteps else denoised

    def _with_known_region(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The latent that a model is shown: outside the mask of an inpainting, the known picture with noise."""
        d = self.run.denoiser
        if d.mask is None:
            return x
        known = d.init_latent + sigma.view(-1, *[1] * (x.ndim - 1)) * torch.randn_like(d.init_latent)
        return x * d.nmask + known * d.mask
