"""Forge: how co-models are run beside the main model in one pass, by the rules that the host has for its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_function
from backend.text_processing import classic_engine
from modules import devices, prompt_parser, shared

from ...comodels.adapter_use import Place
from ...settings import CoModel
from ..common.adapters import Phrases
from ..common.patchers import PatcherRun, PatcherSlotModel
from . import checkpoints, lora


class ForgeRun(PatcherRun):
    """One pass of one batch on Forge."""

    memory = memory_management

    def refuse_main(self) -> None:
        checkpoints.refuse_main(self.main)

    def sigma_max_of(self, model: Any) -> float:
        return float(model.forge_objects.unet.model.predictor.sigma_max)

    def slot_model(self, number: int, slot: CoModel) -> ForgeSlotModel:
        return ForgeSlotModel(self, number, slot)

    def shown(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What a model is shown of a latent: outside the mask of an inpainting, the known picture with noise."""
        d = self.denoiser
        if d.mask is None:
            return x
        known = d.init_latent + sigma.view(-1, *[1] * (x.ndim - 1)) * torch.randn_like(d.init_latent)
        return x * d.nmask + known * d.mask


class ForgeSlotModel(PatcherSlotModel):
    """A checkpoint's engine, loaded outside the host's own place for one, or the main one."""

    models = checkpoints
    memory_remedy = 'lower "GPU Weights" at the top of the page'
    nan_remedy = "start the WebUI with --all-in-fp32"

    def _place(self) -> Place:
        family = checkpoints.family_of(self.model)
        engine = getattr(self.model, "text_processing_engine", None)
        return Place(
            unet=self.network,
            family=family,
            # only SD1's adapters have phrases, and its engine has one text encoder
            phrases=Phrases(self, engine, engine.text_encoder.transformer) if engine else None,
            seeds=self.run.seeds,
            device=memory_management.get_torch_device(),
            dtype=self.unet.model.computation_dtype,
            error_prefix=self.error_prefix,
            panel_label=self.panel_label,
        )

    def _lora(self, named: Sequence[Any]) -> lora.Loras:
        return lora.Loras(self.model, named, self.error_prefix, self.run.host.lora_files)

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        kept = classic_engine.last_extra_generation_params
        classic_engine.last_extra_generation_params = {}
        self.model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        try:
            with torch.inference_mode(), devices.autocast():
                # a layout's phrases are asked of the encoder itself, and not of the engine, which would bring it
                memory_management.load_model_gpu(self.model.forge_objects.clip.patcher)
                yield
        finally:
            classic_engine.last_extra_generation_params = kept

    def _text_options(self) -> tuple[Any, ...]:
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

    def _needs_negative(self) -> bool:
        return self.cond_scale != 1

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run = self.run
        if not self.is_main:
            run.bring(self.unet, x.shape)
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = None if self.uncond is None else prompt_parser.reconstruct_cond_batch(self.uncond, step)
        cond_scale = 1.0 if run.skips_uncond(step, sigma) else self.cond_scale
        with run.mains_random_numbers(), self.at_work(step):
            shown = run.shown(x, sigma)
            denoised, _, _ = sampling_function(*self.asked(shown, sigma, cond, uncond), cond_scale, parts)
        denoised = run.masked(denoised, sigma)
        # timestep samplers are answered with the noise in what the model was shown
        return x + denoised - shown if run.on_timesteps else denoised
