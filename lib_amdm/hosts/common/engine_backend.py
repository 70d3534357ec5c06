"""The answers that Forge and Forge Neo have in common: their models are engines, and one function guides them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from modules import prompt_parser, shared

from ...comodels.cache import Loaded
from ...errors import AmdmError
from ...families import Family
from ...files.state import FileState
from .backend import Evaluation
from .engines import EngineLoader, borrows_texts, family_of, is_flow, with_texts_of
from .memory_managers import EngineMemory
from .patcher_lora import LoraFunctions, PatcherLoras
from .patchers import PatcherBackend


class EngineBackend(PatcherBackend):
    """`backend.Backend` for one pass, but for what these hosts answer in ways of their own."""

    memory: EngineMemory
    runs_flow_models = True
    loader: EngineLoader
    lora_functions: LoraFunctions
    guided: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    """The host's own function for guidance; a static method."""

    # a checkpoint

    def refuse_main(self, others: str) -> None:
        super().refuse_main(others)
        family, name = self.family(self.run.main), self.run.main.sd_checkpoint_info.name
        if self.run.on_timesteps and family.is_flow:
            raise AmdmError(
                f'AMDM: the sampler "{self.run.p.sampler_name}" goes by timesteps, which the main checkpoint "{name}", '
                f"{family}, does not have; choose Euler or another sampler."
            )

    def family(self, model: Any) -> Family:
        return family_of(model)

    def variant(self) -> tuple[Any, ...]:
        return self.loader.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return self.loader.load(info, self.run.main, slot)

    def sigma_max(self, model: Any) -> float:
        return float(_predictor(model).sigma_max)

    # its texts

    @contextmanager
    def text_encoder_of(self, model: Any) -> Iterator[None]:
        """A context in which a model has its text encoder, or the main model's where it has none, on the device."""
        borrows = borrows_texts(model)
        clip = (self.run.main.forge_objects_original if borrows else model.forge_objects).clip
        # while it has its own parts: the main prompt's LoRAs are taken out of those. And a layout's phrases are asked
        # of the encoder itself, and not of the engine, which would bring it
        self.memory.load_model_gpu(clip.patcher)
        device = self.memory.text_encoder_device()
        with with_texts_of(self.run.main, model, device) if borrows else nullcontext():
            model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
            yield

    def text_arguments(self) -> dict[str, Any]:
        p = self.run.p
        return {"distilled_cfg_scale": p.hr_distilled_cfg if p.is_hr_pass else p.distilled_cfg_scale}

    def text_options(self, model: Any) -> tuple[Any, ...]:
        options = super().text_options(model)
        if model is self.run.main or not borrows_texts(model):
            return options
        return (*options, *self.variant(), FileState.of_loaded(self.run.main.sd_checkpoint_info.filename))

    def needs_negative(self, cfg_scale: float) -> bool:
        return self.cond_scale(cfg_scale) != 1

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        texts = self.run.main if borrows_texts(model) else model
        return PatcherLoras(model, texts, named, error_prefix, self.run.kept.lora_files, self.lora_functions)

    # adapters

    def phrase_device(self, model: Any) -> torch.device:
        encoder = self.phrase_encoder(model)
        assert encoder is not None
        device = self.memory.text_encoder_device()
        embeddings: Any = encoder[1].get_submodule("text_model.embeddings")
        # as the host does before it encodes: its loader may leave this buffer behind
        embeddings.position_ids = embeddings.position_ids.to(device)
        return device

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        if not self.family(model).has_phrases:
            return None
        engine = (self.run.main if borrows_texts(model) else model).text_processing_engine
        return engine, engine.text_encoder.transformer

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        return self.memory.get_torch_device(), model.forge_objects.unet.model.computation_dtype

    # the pass

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        run, x, step = self.run, evaluation.x, evaluation.step
        sigma = self._sigma_of_main(evaluation)
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        negative = evaluation.uncond
        uncond = None if negative is None else prompt_parser.reconstruct_cond_batch(negative, step)
        cond_scale = 1.0 if self.skips_uncond(step, sigma) else evaluation.cond_scale
        with self.at_work(evaluation):
            shown = self._with_known_region(evaluation)
            inputs = self.guidance_inputs(evaluation, shown, cond, uncond)
            denoised, _, _ = self.guided(*inputs, cond_scale, parts)
        denoised = run.masked(denoised, sigma)
        if not run.on_timesteps:
            return denoised
        # timestep samplers are answered with the noise in what the model was shown
        alpha = 1 - _over(evaluation.sigma, x) if is_flow(evaluation.model) else 1
        return denoised + (x - shown) / alpha

    def skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """True where the host's rules leave out the negative prompt."""
        return self.run.skips_uncond(step, sigma)

    def _sigma_of_main(self, evaluation: Evaluation) -> torch.Tensor:
        """The noise level of an evaluation as the main model calls it, (batch,)."""
        own, main, sigma = is_flow(evaluation.model), is_flow(self.run.main), evaluation.sigma
        if own == main:
            return sigma
        return sigma / (1 - sigma) if own else sigma / (1 + sigma)

    def _with_known_region(self, evaluation: Evaluation) -> torch.Tensor:
        """The latent that a model is shown: outside the mask of an inpainting, the known picture with noise."""
        d, x = self.run.denoiser, evaluation.x
        if d.mask is None:
            return x
        noise, sigma = torch.randn_like(d.init_latent), _over(evaluation.sigma, x)
        known = _predictor(evaluation.model).noise_scaling(sigma, noise, d.init_latent, max_denoise=False)
        return x * d.nmask + known * d.mask


def _over(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Noise levels (batch,), as they are multiplied with latents like `x`."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def _predictor(engine: Any) -> Any:
    return engine.forge_objects.unet.model.predictor
