"""reForge: how co-models are run beside the main model in one pass, by the rules that the host has for its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ldm_patched.modules import model_management
from modules import devices, prompt_parser, shared
from modules_forge.forge_sampler import forge_sample

from ...comodels.adapter_use import Place
from ...settings import CoModel
from ..common.adapters import Phrases
from ..common.hijack import embedding_names, notes_of_main_kept
from ..common.patchers import PatcherRun, PatcherSlotModel
from . import checkpoints, lora


class ReForgeRun(PatcherRun):
    """One pass of one batch on reForge."""

    memory = model_management

    def refuse_main(self) -> None:
        checkpoints.refuse_main(self.main)

    def sigma_max_of(self, model: Any) -> float:
        return float(model.forge_objects.unet.model.model_sampling.sigma_max)

    def slot_model(self, number: int, slot: CoModel) -> ReForgeSlotModel:
        return ReForgeSlotModel(self, number, slot)

    def skips_uncond(self, step: int, sigma: float) -> bool:
        opts, least = shared.opts, shared.opts.s_min_uncond
        if least > 0 and sigma < least and (step % 2 == 0 or opts.s_min_uncond_all):
            return True
        early = opts.skip_early_cond
        return step < early or (early != 0 and step / self.denoiser.total_steps <= early)


class ReForgeSlotModel(PatcherSlotModel):
    """A checkpoint's model, loaded outside the host's own list of models, or the main one."""

    models = checkpoints
    memory_remedy = "start the WebUI with --always-low-vram"
    nan_remedy = "start the WebUI with --all-in-fp32"

    def _place(self) -> Place:
        family = checkpoints.family_of(self.model)
        encoder = getattr(self.model, "cond_stage_model", None) if family.startswith("SD1") else None
        return Place(
            unet=self.network,
            family=family,
            # only SD1's adapters have phrases
            phrases=Phrases(self, encoder, encoder.wrapped.transformer) if encoder else None,
            seeds=self.run.seeds,
            device=model_management.get_torch_device(),
            # the UNet's own may be for storage only (float8)
            dtype=self.unet.model.manual_cast_dtype or self.unet.model.get_dtype(),
            error_prefix=self.error_prefix,
            panel_label=self.panel_label,
        )

    def _lora(self, named: Sequence[Any]) -> lora.Loras:
        return lora.Loras(self.model, named, self.error_prefix, self.run.host.lora_files)

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        checkpoints.bring_texts(self.model)
        with notes_of_main_kept(), torch.inference_mode(), devices.autocast():
            yield

    def _text_options(self) -> tuple[Any, ...]:
        opts = shared.opts
        return (
            opts.use_old_scheduling,
            opts.use_old_emphasis_implementation,
            opts.emphasis,
            opts.comma_padding_backtrack,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
            *embedding_names(),
        )

    @property
    def cond_scale(self) -> float:
        """DDIM CFG++ divides the guidance scale of every model."""
        return super().cond_scale * self.run.denoiser.cond_scale_miltiplier

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run = self.run
        if not self.is_main:
            run.bring(self.unet, x.shape)
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(self.uncond, step)
        cond_scale = 1.0 if run.skips_uncond(step, sigma) else self.cond_scale
        with run.mains_random_numbers(), self.at_work(step):
            denoised = forge_sample(*self.asked(x, sigma, cond, uncond), cond_scale, parts)
        return run.masked(denoised, sigma)
