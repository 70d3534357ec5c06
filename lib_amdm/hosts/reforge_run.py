"""reForge: how co-models are run beside the main model in one pass, by the rules that the host has for its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from ldm_patched.modules import model_management
from modules import devices, prompt_parser, shared
from modules_forge.forge_sampler import forge_sample

from ..comodels.adapted import Place
from ..comodels.pool import FileState
from ..settings import CoModel
from . import reforge_models
from .webui_adapters import Phrases
from .webui_hijack import embedding_names, notes_of_main_kept
from .webui_patchers import PatcherRun, PatcherSlotModel


class ReForgeRun(PatcherRun):
    """One pass of one batch on reForge."""

    memory = model_management

    def refuse_main(self) -> None:
        reforge_models.refuse_main(self.main)

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

    memory_remedy = "start the WebUI with --always-low-vram"
    nan_remedy = "start the WebUI with --all-in-fp32"

    def _load(self) -> None:
        run, p = self.run, self.run.p
        load = partial(reforge_models.load, self.info, run.main, self.number)
        kept = run.host.pool.get(self.info.filename, reforge_models.variant(), load)
        # the family is checked again because the kept one may have been loaded beside another main model
        reforge_models.refuse_stranger(kept.model.engine, self.info, run.main, self.number)
        kept.model.prepare(p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        self.model, self.texts = kept.model.engine, kept.texts

    def _place(self) -> Place:
        family = reforge_models.family(self.model)
        encoder = getattr(self.model, "cond_stage_model", None) if family.startswith("SD1") else None
        return Place(
            unet=self.network,
            family=family,
            # only SD1's adapters have phrases
            phrases=Phrases(self, encoder, encoder.wrapped.transformer) if encoder else None,
            seeds=self.run.seeds,
            device=model_management.get_torch_device(),
            dtype=self.unet.model.get_dtype(),
            who=self.who,
            control=self.control,
        )

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        reforge_models.bring_texts(self.model)
        with notes_of_main_kept(), torch.inference_mode(), devices.autocast():
            yield

    def _dialect(self) -> tuple[Any, ...]:
        opts = shared.opts
        options = (
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
        if not self.is_main:
            return options
        return (*options, self.model.current_lora_hash, *reforge_models.variant(), FileState.of(self.info.filename))

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run = self.run
        if not self.is_main:
            run.bring(self.unet, x.shape)
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        cond, uncond = self._padded(cond, prompt_parser.reconstruct_cond_batch(self.uncond, step))
        cond_scale = 1.0 if run.skips_uncond(step, sigma[0].item()) else self.cond_scale
        with run.mains_random_numbers(), self.adapted(step):
            denoised = forge_sample(*self.asked(x, sigma, cond, uncond), cond_scale, parts)
        return run.masked(denoised, sigma)
