"""reForge's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ldm_patched.modules import model_management
from ldm_patched.modules.args_parser import args
from modules import devices, prompt_parser, shared
from modules_forge.forge_sampler import forge_sample

from ...comodels.cache import Loaded
from ...families import Family
from ..common.backend import Evaluation
from ..common.hijack import embedding_names, notes_of_main_kept
from ..common.memory_managers import give_way
from ..common.patcher_lora import PatcherLoras
from ..common.patchers import PatcherBackend
from . import checkpoints, lora


class ReForgeBackend(PatcherBackend):
    """Models are what reForge's loader makes, with A1111's wrapping of their text encoders."""

    memory = model_management
    nan_remedy = "start the WebUI with --all-in-fp32"

    @property
    def memory_remedy(self) -> str:
        for flag in ("always_gpu", "always_high_vram"):
            if getattr(args, flag):
                return f"start the WebUI without --{flag.replace('_', '-')}"
        return "" if args.always_low_vram or args.always_no_vram else "start the WebUI with --always-low-vram"

    def start(self) -> None:
        super().start()
        give_way(self.memory, self.run.main.forge_objects.unet, self.own_unets)

    def family(self, model: Any) -> Family:
        return checkpoints.family_of(model)

    def variant(self) -> tuple[Any, ...]:
        return checkpoints.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return checkpoints.load(info, self.run.main, slot)

    def sigma_max(self, model: Any) -> float:
        return float(model.forge_objects.unet.model.model_sampling.sigma_max)

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        checkpoints.load_text_encoder_to_gpu(model)
        with notes_of_main_kept(), torch.inference_mode(), devices.autocast():
            yield

    def host_text_options(self) -> tuple[Any, ...]:
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

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        return PatcherLoras(model, model, named, error_prefix, self.run.kept.lora_files, lora.ReForgeLoras())

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        encoder = getattr(model, "cond_stage_model", None) if self.family(model).has_phrases else None
        return (encoder, encoder.wrapped.transformer) if encoder else None

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        unet = model.forge_objects.unet.model
        # the UNet's own dtype may be for storage only (float8)
        return model_management.get_torch_device(), unet.manual_cast_dtype or unet.get_dtype()

    def cond_scale(self, cfg_scale: float) -> float:
        """DDIM CFG++ divides the guidance scale of every model."""
        return super().cond_scale(cfg_scale) * self.run.denoiser.cond_scale_miltiplier

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        sigma, step = evaluation.sigma, evaluation.step
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(evaluation.uncond, step)
        cond_scale = 1.0 if self._skips_uncond(step, sigma) else evaluation.cond_scale
        with self.at_work(evaluation):
            inputs = self.guidance_inputs(evaluation, evaluation.x, cond, uncond)
            denoised = forge_sample(*inputs, cond_scale, parts)
        return self.run.masked(denoised, sigma)

    def _skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """True where the host's rules leave out the negative prompt; they are not those of its relatives."""
        opts, least = shared.opts, shared.opts.s_min_uncond
        if least > 0 and (step % 2 == 0 or opts.s_min_uncond_all) and sigma[0] < least:
            return True
        early = opts.skip_early_cond
        return step < early or (early != 0 and step / self.run.denoiser.total_steps <= early)
