"""reForge's backend for one pass, by its rules for its own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ldm_patched.modules import model_management
from ldm_patched.modules.args_parser import args
from modules import devices, prompt_parser, shared
from modules_forge.forge_sampler import forge_sample

from ...core.arguments import Prediction
from ..common import patchers
from ..common.backend import Backend, Checkpoints, Evaluation, Texts, text_options
from ..common.hijack import HIJACK_OPTIONS, embedding_names, notes_of_main_kept
from ..common.pass_run import PassRun
from ..common.patcher_lora import PatcherLoras
from ..common.patchers import PatcherEvaluator
from ..webui_types import Engine
from . import checkpoints, lora


def backend(run: PassRun) -> Backend:
    """Make the backend of one pass; models are those of reForge's loader, with text encoders wrapped as in A1111."""

    def loras(model: Engine, named: Sequence[Any], error_prefix: str) -> PatcherLoras:
        return PatcherLoras(model, model, named, error_prefix, run.kept.lora_files, lora.FUNCTIONS)

    def options(model: Engine) -> tuple[Any, ...]:
        of_host = (*text_options(*HIJACK_OPTIONS), *embedding_names())
        return (*of_host, *patchers.text_options_of_main(run, model, checkpoints.variant))

    evaluator = PatcherEvaluator(
        run,
        model_management,
        _denoised,
        # DDIM CFG++ divides the guidance scale of every model
        guidance_factor=lambda: run.denoiser.cond_scale_miltiplier,
        gives_way=True,
    )
    low_vram = "" if args.always_low_vram or args.always_no_vram else "start the WebUI with --always-low-vram"
    return Backend(
        Checkpoints(
            checkpoints.family_of,
            checkpoints.variant,
            checkpoints.load,
            model_of=lambda loaded: loaded.engine,
            prepare=lambda loaded, p, main: loaded.prepare(p, main),
            sigma_max=lambda model: float(model.forge_objects.unet.model.model_sampling.sigma_max),
            reason_against=checkpoints.ELSEWHERE.reason_against,
        ),
        Texts(_encoding, options, loras),
        patchers.adapter_places(run, model_management, _phrase_encoder, _phrase_device, _computed_in),
        patchers.extensions(run),
        evaluator,
        lambda model: evaluator.autoencoder(model, model.forge_objects.unet.model.latent_format),
        memory_remedy=patchers.remedy_by_flags(args, ("always_gpu", "always_high_vram"), low_vram),
        nan_remedy="start the WebUI with --all-in-fp32",
    )


@contextmanager
def _encoding(model: Engine) -> Iterator[None]:
    # the host itself moves only the main model's text encoder
    model_management.load_model_gpu(model.forge_objects.clip.patcher)
    with notes_of_main_kept(), torch.inference_mode(), devices.autocast():
        yield


def _phrase_encoder(model: Engine) -> tuple[Any, torch.nn.Module] | None:
    encoder = getattr(model, "cond_stage_model", None) if checkpoints.family_of(model).has_phrases else None
    return (encoder, encoder.wrapped.transformer) if encoder else None


def _phrase_device(model: Engine) -> torch.device:
    # as the host does before it encodes: where an encoder is loaded in parts, this one may stay behind
    model.cond_stage_model.wrapped.transformer.text_model.embeddings.to(devices.device)
    return devices.device


def _computed_in(unet: Any) -> torch.dtype:
    # the UNet's own dtype may be for storage only (float8)
    return unet.manual_cast_dtype or unet.get_dtype()


def _denoised(evaluator: PatcherEvaluator, evaluation: Evaluation) -> Prediction:
    run, sigma, step = evaluator.run, evaluation.sigma, evaluation.step
    parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
    uncond = prompt_parser.reconstruct_cond_batch(evaluation.uncond, step)
    cond_scale = 1.0 if _skips_uncond(run, step, sigma) else evaluation.cond_scale
    with evaluator.at_work(evaluation):
        inputs = evaluator.guidance_inputs(evaluation, evaluation.x, cond, uncond)
        denoised = forge_sample(*inputs, cond_scale, parts)
    return Prediction(denoised if evaluation.is_foreign else run.masked(denoised, sigma), evaluator.base.last)


def _skips_uncond(run: PassRun, step: int, sigma: torch.Tensor) -> bool:
    """Return True if the host's rules leave out the negative prompt; they differ from those of its relatives."""
    opts, least = shared.opts, shared.opts.s_min_uncond
    if least > 0 and (step % 2 == 0 or opts.s_min_uncond_all) and sigma[0] < least:
        return True
    early = opts.skip_early_cond
    return step < early or (early != 0 and step / run.denoiser.total_steps <= early)
