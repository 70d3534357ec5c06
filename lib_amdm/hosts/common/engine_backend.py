"""The backend parts that Forge and Forge Neo share: their models are engines, all guided by one function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from modules import prompt_parser

from ...core.arguments import Prediction
from ..webui_types import Engine
from . import engine_texts, patchers
from .autoencoders import PassAutoencoder
from .backend import AdapterPlaces, Checkpoints, Evaluation
from .engines import EngineLoader, family_of, is_flow
from .memory_managers import EngineMemory
from .pass_run import PassRun
from .patchers import PatcherEvaluator


def checkpoints(loader: EngineLoader, variant: Callable[[], tuple[Any, ...]]) -> Checkpoints:
    return Checkpoints(
        family_of,
        variant,
        loader.load,
        model_of=lambda loaded: loaded.engine,
        prepare=lambda loaded, p, main: loaded.prepare(p, main),
        sigma_max=lambda model: float(_predictor(model).sigma_max),
        takes_modules=True,
        reason_against=loader.elsewhere.reason_against,
    )


def adapter_places(run: PassRun, memory: EngineMemory) -> AdapterPlaces:
    def phrase_encoder(model: Engine) -> tuple[Any, torch.nn.Module] | None:
        return engine_texts.phrase_encoder(run, model) if family_of(model).has_phrases else None

    phrase_device = partial(engine_texts.phrase_device, run, memory)
    return patchers.adapter_places(run, memory, phrase_encoder, phrase_device, lambda unet: unet.computation_dtype)


def autoencoders(evaluator: PatcherEvaluator) -> Callable[[Engine], PassAutoencoder]:
    """Return a function that returns an engine's autoencoder, which scales its latents itself."""
    return lambda model: evaluator.autoencoder(model, model.forge_objects.vae.first_stage_model)


def denoised(
    guided: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    evaluator: PatcherEvaluator,
    evaluation: Evaluation,
    may_skip_first: bool = True,
) -> Prediction:
    """Evaluate an engine.

    guided: the host's own function for guidance.
    may_skip_first: its rules for leaving out the negative prompt apply to the first step too.
    """
    run, x, step = evaluator.run, evaluation.x, evaluation.step
    sigma = _sigma_of_main(run, evaluation)
    parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
    negative = evaluation.uncond
    uncond = None if negative is None else prompt_parser.reconstruct_cond_batch(negative, step)
    skips_uncond = (may_skip_first or step > 0) and run.skips_uncond(step, sigma)
    with evaluator.at_work(evaluation):
        shown = x if evaluation.is_foreign else _with_known_region(run, evaluation)
        inputs = evaluator.guidance_inputs(evaluation, shown, cond, uncond)
        result, _, _ = guided(*inputs, 1.0 if skips_uncond else evaluation.cond_scale, parts)
    if evaluation.is_foreign:
        return Prediction(result)
    result, base = run.masked(result, sigma), evaluator.base.last
    if not run.on_timesteps:
        return Prediction(result, base)
    # timestep samplers expect the noise in the model's input
    alpha = 1 - _over(evaluation.sigma, x) if is_flow(evaluation.model) else 1
    return Prediction(result + (x - shown) / alpha, base)


def _sigma_of_main(run: PassRun, evaluation: Evaluation) -> torch.Tensor:
    """Return the noise level of an evaluation in the main model's terms, (batch,)."""
    model_is_flow, main_is_flow, sigma = is_flow(evaluation.model), is_flow(run.main), evaluation.sigma
    if model_is_flow == main_is_flow:
        return sigma
    return sigma / (1 - sigma) if model_is_flow else sigma / (1 + sigma)


def _with_known_region(run: PassRun, evaluation: Evaluation) -> torch.Tensor:
    """Return the model's input: outside the mask of an inpainting, the known picture with noise."""
    d, x = run.denoiser, evaluation.x
    if d.mask is None:
        return x
    # drawn as by the host, on the main model's device
    noise = torch.randn_like(d.init_latent)
    noise, init, nmask, mask = (values.to(x.device) for values in (noise, d.init_latent, d.nmask, d.mask))
    known = _predictor(evaluation.model).noise_scaling(_over(evaluation.sigma, x), noise, init, max_denoise=False)
    return x * nmask + known * mask


def _over(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return noise levels (batch,) in a shape to multiply with latents like `x`."""
    return sigma.view(-1, *[1] * (x.ndim - 1))


def _predictor(engine: Engine) -> Any:
    return engine.forge_objects.unet.model.predictor
