"""The answers that Forge and Forge Neo have in common: their models are engines, and one function guides them all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from modules import prompt_parser

from ...comodels.cache import Loaded
from ...families import Family
from .backend import Evaluation
from .engines import EngineLoader
from .patcher_lora import LoraFunctions, PatcherLoras
from .patchers import MemoryManager, PatcherBackend


class EngineMemory(MemoryManager, Protocol):
    """The host's module of this job, as far as engines need it."""

    def get_torch_device(self) -> torch.device: ...

    def cleanup_models(self) -> None: ...

    def soft_empty_cache(self) -> None: ...


def freeing(memory: EngineMemory) -> Callable[[], None]:
    """A function that gives back the memory of engines that nothing refers to any more."""

    def free() -> None:
        # an engine refers to itself, and the memory manager keeps what is referred to
        gc.collect()
        memory.cleanup_models()
        memory.soft_empty_cache()

    return free


class EngineBackend(PatcherBackend):
    """`backend.Backend` for one pass, but for what these hosts answer in ways of their own."""

    memory: EngineMemory
    memory_remedy = 'lower "GPU Weights" at the top of the page'
    loader: EngineLoader
    lora_functions: LoraFunctions
    guided: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    """The host's own function for guidance; a static method."""

    # a checkpoint

    def family(self, model: Any) -> Family:
        return self.loader.family_of(model)

    def variant(self) -> tuple[Any, ...]:
        return self.loader.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return self.loader.load(info, self.run.main, slot)

    def sigma_max(self, model: Any) -> float:
        return float(_predictor(model).sigma_max)

    # its texts

    def needs_negative(self, cfg_scale: float) -> bool:
        return self.cond_scale(cfg_scale) != 1

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        return PatcherLoras(model, named, error_prefix, self.run.kept.lora_files, self.lora_functions)

    # adapters

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        if not self.family(model).has_phrases:
            return None
        engine = model.text_processing_engine
        return engine, engine.text_encoder.transformer

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        return self.memory.get_torch_device(), model.forge_objects.unet.model.computation_dtype

    # the pass

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        run, x, sigma, step = self.run, evaluation.x, evaluation.sigma, evaluation.step
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        negative = evaluation.uncond
        uncond = None if negative is None else prompt_parser.reconstruct_cond_batch(negative, step)
        cond_scale = 1.0 if self.skips_uncond(step, sigma) else evaluation.cond_scale
        with self.at_work(evaluation):
            shown = self._with_known_region(evaluation)
            inputs = self.guidance_inputs(evaluation, shown, cond, uncond)
            denoised, _, _ = self.guided(*inputs, cond_scale, parts)
        denoised = run.masked(denoised, sigma)
        # timestep samplers are answered with the noise in what the model was shown
        return x + denoised - shown if run.on_timesteps else denoised

    def skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """True where the host's rules leave out the negative prompt."""
        return self.run.skips_uncond(step, sigma)

    def _with_known_region(self, evaluation: Evaluation) -> torch.Tensor:
        """The latent that a model is shown: outside the mask of an inpainting, the known picture with noise."""
        d, x = self.run.denoiser, evaluation.x
        if d.mask is None:
            return x
        sigma = evaluation.sigma.view(-1, *[1] * (x.ndim - 1))
        noise = torch.randn_like(d.init_latent)
        known = _predictor(evaluation.model).noise_scaling(sigma, noise, d.init_latent, max_denoise=False)
        return x * d.nmask + known * d.mask


def _predictor(engine: Any) -> Any:
    return engine.forge_objects.unet.model.predictor
