"""AMDM around a sampler of ComfyUI: the wrapper of a model with co-models."""

from __future__ import annotations

import functools
from typing import Any

import torch
from comfy.samplers import CFGGuider
from torch import Tensor

from ...comodels.mixing import co_run, mixed
from ...core.arguments import Pass
from ...core.levels import as_flow, flow, variance_exploding
from ...core.sampler_call import SamplerCall, StandIn
from ...errors import AmdmError
from . import attached
from .co_model import CoSampler, Networks, levels_of
from .unconditional import Unconditional, base_in

WITHOUT_NOISE = ("sample_res_multistep", "sample_res_multistep_cfg_pp")
"""Samplers that take a noise sampler, but add no noise."""


def sample_with_co_models(
    executor: Any, guider: CFGGuider, sigmas: Tensor, extra_args: Any, callback: Any, noise: Tensor, *rest: Any
) -> Tensor:
    """Run a sampler with the co-models of the guider's model. executor: the sampler's `sample`."""
    settings, inputs = attached.of(guider.model_patcher)
    if len(sigmas) < 2 or not settings.mixes:
        return executor(guider, sigmas, extra_args, callback, noise, *rest)
    if noise.ndim < 4:
        raise AmdmError("AMDM: only pictures and videos can be mixed; remove the AMDM node from this model.")
    sampler, sampling, seed = executor.class_obj, guider.inner_model.model_sampling, extra_args.get("seed") or 0
    networks, shared = Networks(guider, noise.shape), Unconditional(extra_args["model_options"])
    co_models = [CoSampler(n, slot, inputs[n - 1], guider, networks, shared) for n, slot in settings.active]
    for co in co_models:
        co.check(noise)
    latent_image, denoise_mask, *_ = rest
    is_drawn = latent_image is not None and bool(latent_image.count_nonzero())

    def whole(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        arguments = {**extra_args, "model_options": shared.options}
        return executor(StandIn(model, shared.joint), sigmas, arguments, callback, noise, *rest)

    def together() -> Tensor:
        networks.use(guider)
        (form, top), seeds, size = levels_of(sampling), range(seed, seed + len(noise)), (*noise.shape[-2:],)
        co_runs = [co_run(co.number, co.slot, co.run(), seeds, size, top, co.inputs.mask) for co in co_models]
        level_of = flow if form is as_flow else variance_exploding
        in_pass = Pass(
            init=latent_image if is_drawn else None,
            guidance=guider.cfg,
            base=lambda: base_in(shared.parts),
            level_of=level_of,
        )
        # it adds in place
        x = sampling.noise_scaling(sigmas[0], noise.clone(), latent_image, sampler.max_denoise(guider, sigmas))
        run = mixed(whole, settings, co_runs, in_pass, shared.mix)
        return run(StandIn(guider, shared.main), x, sigmas, **_options(sampler, guider, x, sigmas))

    # each guider scales a latent, unless it is empty
    latent = guider.inner_model.process_latent_out(latent_image) if is_drawn else torch.zeros_like(noise)
    inside = together
    for co in reversed(co_models):
        inside = functools.partial(co.around, inside, noise, latent, sigmas, denoise_mask=denoise_mask, seed=seed)
    return inside()


def _options(sampler: Any, *positional: Any) -> dict[str, Any]:
    """Return the other arguments of the sampler's function, such as its noise and its churn."""
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return {}
    arguments = {"extra_args": None, "callback": None, "disable": True, **sampler.extra_options}
    _, _, _, *options = SamplerCall(function, positional, arguments).named.items()
    without = ("noise_sampler",) if getattr(function, "__name__", "") in WITHOUT_NOISE else ()
    return {name: value for name, value in options if name not in without}
