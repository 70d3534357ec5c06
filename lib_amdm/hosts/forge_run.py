"""Forge: how co-models are run beside the main model in one pass, by the rules that the host has for its own.

The host's memory manager knows them: a copy of the main UNet's patcher names them as what is needed beside it, so that
it plans the GPU's memory for all of them before the pass, and takes from them what it needs afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from backend import memory_management
from backend.sampling.sampling_function import sampling_function
from backend.text_processing import classic_engine
from modules import devices, prompt_parser, shared
from modules.script_callbacks import CFGDenoiserParams

from ..comodels.pool import FileState
from ..sampling import CoRun
from ..settings import CoModel
from . import forge_models
from .webui_run import SlotModel, WebUIRun


class ForgeRun(WebUIRun):
    """One pass of one batch on Forge."""

    registered: Sequence[Any] = ()
    known_noise: _KnownNoise | None = None

    def refuse_main(self) -> None:
        forge_models.refuse_main(self.main)

    def slot_model(self, number: int, slot: CoModel) -> ForgeSlotModel:
        return ForgeSlotModel(self, number, slot)

    def co_runs(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        runs = super().co_runs(slots)
        self._register()
        return runs

    def _register(self) -> None:
        own = {id(model.unet): model.unet for model in self.models if not model.is_main}
        if not own:
            return
        objects = self.main.forge_objects
        objects.unet = objects.unet.clone()
        for unet in own.values():
            objects.unet.add_extra_model_patcher_during_sampling(unet)
        self.registered = list(own.values())

    def start(self) -> None:
        if getattr(self.p, "mask", None) is not None:
            self.known_noise = _KnownNoise(self.denoiser)

    def finish(self, pool_limit: int) -> bool:
        if self.known_noise is not None:
            self.known_noise.remove()
        if self.registered:
            # other extensions may have copied the patcher, and its list with it
            needed = self.main.forge_objects.unet.extra_model_patchers_during_sampling
            needed[:] = [each for each in needed if not any(each is unet for unet in self.registered)]
            self.registered = ()
        return super().finish(pool_limit)

    @property
    def cond_scale(self) -> float:
        return self.p.hr_cfg if self.p.is_hr_pass else self.p.cfg_scale

    def bring(self, unet: Any, shape: torch.Size) -> None:
        """Have a co-model's UNet where it is evaluated, should the host have sent it away in the middle of the pass."""
        if any(entry.model is unet for entry in memory_management.current_loaded_models):
            return
        main = self.main.forge_objects.unet
        batch, *rest = shape
        memory_management.load_models_gpu(
            [main, *main.extra_model_patchers_during_sampling], unet.memory_required([2 * batch, *rest])
        )

    def shown(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What a model is shown of a latent: outside the mask of an inpainting, the known picture with noise."""
        if self.known_noise is None:
            return x
        d = self.denoiser
        noise = self.known_noise.draw(d.init_latent)
        known = d.init_latent + sigma.view(-1, *[1] * (x.ndim - 1)) * noise
        return x * d.nmask + known * d.mask


class _KnownNoise:
    """The noise that the denoiser put on the known part of an inpainting in its last evaluation, drawn again.

    It comes from the process's own generator, which must not be moved: so the state from before is remembered.
    """

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self.states: dict[torch.device, torch.Tensor] = {}
        self.handle = denoiser.register_forward_pre_hook(self._remember)

    def _remember(self, denoiser: torch.nn.Module, args: tuple[Any, ...]) -> None:
        device = denoiser.init_latent.device
        module = torch if device.type == "cpu" else getattr(torch, device.type)
        self.states[device] = module.get_rng_state() if device.type == "cpu" else module.get_rng_state(device)

    def draw(self, like: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator(like.device)
        generator.set_state(self.states[like.device])
        return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)

    def remove(self) -> None:
        self.handle.remove()


class ForgeSlotModel(SlotModel):
    """A checkpoint's engine, loaded outside the host's own place for one, or the main one."""

    memory_remedy = 'lower "GPU Weights" at the top of the page'
    nan_remedy = "start the WebUI with --all-in-fp32"

    def _load(self) -> None:
        run, p = self.run, self.run.p
        load = partial(forge_models.load, self.info, run.main, self.number)
        kept = run.host.pool.get(self.info.filename, forge_models.variant(), load)
        # the family is checked again because the kept one may have been loaded beside another main model
        forge_models.refuse_stranger(forge_models.family_of(kept.model.engine), self.info, run.main, self.number)
        kept.model.prepare(p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        self.model, self.texts = kept.model.engine, kept.texts

    @property
    def unet(self) -> Any:
        """The UNet's patcher, with everything that was attached to it."""
        return self.model.forge_objects.unet

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        kept = classic_engine.last_extra_generation_params
        classic_engine.last_extra_generation_params = {}
        self.model.set_clip_skip(int(shared.opts.CLIP_stop_at_last_layers))
        try:
            with torch.inference_mode(), devices.autocast():
                yield
        finally:
            classic_engine.last_extra_generation_params = kept

    def _dialect(self) -> tuple[Any, ...]:
        opts = shared.opts
        options = (
            opts.use_old_scheduling,
            opts.emphasis,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
        )
        if not self.is_main:
            return options
        return (*options, self.model.current_lora_hash, *forge_models.variant(), FileState.of(self.info.filename))

    def _needs_negative(self) -> bool:
        return self.cond_scale != 1

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run, state = self.run, shared.state
        if not self.is_main:
            run.bring(self.unet, x.shape)
        shown = run.shown(x, sigma)
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = None if self.uncond is None else prompt_parser.reconstruct_cond_batch(self.uncond, step)
        cond_scale = 1.0 if run.skips_uncond(step, sigma[0].item()) else self.cond_scale
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        told = CFGDenoiserParams(
            shown, image_cond, sigma, state.sampling_step, state.sampling_steps, cond, uncond, run.denoiser
        )
        # the host's own function, on a stand-in for the denoiser whose model is this one
        denoiser = SimpleNamespace(inner_model=SimpleNamespace(inner_model=self.model), p=run.p)
        denoised, _, _ = sampling_function(denoiser, told, cond_scale, parts)
        denoised = run.masked(denoised, sigma)
        # timestep samplers are answered with the noise in what the model was shown
        return x + denoised - shown if run.on_timesteps else denoised
