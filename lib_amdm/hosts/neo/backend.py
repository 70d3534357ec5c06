"""Forge Neo's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_function
from modules import devices, prompt_parser, sd_samplers_common, shared
from torch.utils.hooks import RemovableHandle

from ...comodels.cache import Loaded
from ...families import Family
from ..common.backend import Evaluation
from ..common.pass_run import PassRun
from ..common.patcher_lora import PatcherLoras
from ..common.patchers import PatcherBackend
from . import checkpoints, lora


class NeoBackend(PatcherBackend):
    """Models are Forge Neo's engines."""

    memory = memory_management
    memory_remedy = 'lower "GPU Weights" at the top of the page'
    nan_remedy = "start the WebUI with --force-fp32"

    def __init__(self, run: PassRun) -> None:
        super().__init__(run)
        # the file that the main model was of when a refiner's weights were put into it; None: they were not
        self.replaced = sd_samplers_common.ORIGINAL_CHECKPOINT
        self.order: RemovableHandle | None = None

    # a checkpoint

    def family(self, model: Any) -> Family:
        return checkpoints.LOADER.family_of(model)

    def variant(self) -> tuple[Any, ...]:
        return checkpoints.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return checkpoints.LOADER.load(info, self.run.main, slot)

    def sigma_max(self, model: Any) -> float:
        return float(model.forge_objects.unet.model.predictor.sigma_max)

    def main_has_other_weights(self) -> bool:
        return bool(self.replaced != sd_samplers_common.ORIGINAL_CHECKPOINT)

    # its texts

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        with checkpoints.globals_kept(), torch.inference_mode(), devices.autocast():
            # a layout's phrases are asked of the encoder itself, and not of the engine, which would bring it
            memory_management.load_model_gpu(model.forge_objects.clip.patcher)
            yield

    def parser_options(self) -> tuple[Any, ...]:
        return ()

    def host_text_options(self) -> tuple[Any, ...]:
        opts = shared.opts
        return (
            opts.emphasis,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
            opts.sdxl_zero_neg,
        )

    def needs_negative(self, cfg_scale: float) -> bool:
        return self.cond_scale(cfg_scale) != 1

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        return PatcherLoras(model, named, error_prefix, self.run.kept.lora_files, lora.HostLoras())

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        if not self.family(model).has_phrases:
            return None
        engine = model.text_processing_engine
        return engine, engine.text_encoder.transformer

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        return memory_management.get_torch_device(), model.forge_objects.unet.model.computation_dtype

    # the pass

    def start(self) -> None:
        super().start()
        self.order = self.run.denoiser.register_forward_pre_hook(self._main_first)

    def finish(self) -> None:
        if self.order is not None:
            self.order.remove()
            self.order = None
        self._main_first()
        super().finish()

    def _main_first(self, *_: Any) -> None:
        """List the co-models' UNets behind all others: where the refiner is switched to by its weights alone, and back,
        the host takes the first UNet in its list for the main one."""
        listed = self.memory.current_loaded_models
        ours = {id(unet) for unet in self.own_unets}
        # a stable order: False comes before True
        listed.sort(key=lambda entry: id(entry.model) in ours)

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        run, x, sigma, step = self.run, evaluation.x, evaluation.sigma, evaluation.step
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        negative = evaluation.uncond
        uncond = None if negative is None else prompt_parser.reconstruct_cond_batch(negative, step)
        cond_scale = 1.0 if self._skips_uncond(step, sigma) else evaluation.cond_scale
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
        predictor = self.run.main.forge_objects.unet.model.predictor
        levels = sigma.view(-1, *[1] * (x.ndim - 1))
        noise = torch.randn_like(d.init_latent)
        known = predictor.noise_scaling(levels, noise, d.init_latent, max_denoise=False)
        return x * d.nmask + known * d.mask

    def _skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """True where the host's rules leave out the negative prompt; unlike Forge's, never in the first step."""
        return step > 0 and self.run.skips_uncond(step, sigma)
