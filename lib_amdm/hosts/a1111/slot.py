"""A1111 1.10: one slot's model in one pass, by the rules that the host has for its main one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import k_diffusion.external
import torch
from modules import devices, lowvram, prompt_parser, sd_models, sd_samplers_lcm, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser, pad_cond

from ...comodels.adapter_use import Place
from ...comodels.cache import FileState
from ...comodels.guidance import Announce, guided
from ...comodels.weight_swap import changed
from ..common.adapters import Phrases
from ..common.hijack import embedding_names, notes_of_main_kept
from ..common.slot import SlotModel, progress
from . import checkpoints, lora


class A1111SlotModel(SlotModel):
    """A checkpoint's module, loaded outside the host's own list of models, or the main one."""

    memory_remedy = "start the WebUI with --medvram"
    nan_remedy = "start the WebUI with --no-half or --upcast-sampling"

    def _load(self) -> None:
        run, p = self.run, self.run.p
        load = partial(checkpoints.load, self.info, run.main, self.number)
        kept = run.host.pool.get(self.info.filename, checkpoints.variant(), load)
        # the family is checked again because the kept one may have been loaded beside another main model
        checkpoints.refuse_stranger(kept.model, self.info, run.main, self.number)
        self.model, self.texts = kept.model, kept.texts
        if self._is_eps_beside_v():
            # the option's noise schedule is the main model's; this one keeps to the one that it was trained on
            self.model.alphas_cumprod = self.model.alphas_cumprod_original.to(devices.device)
        else:
            sd_models.apply_alpha_schedule_override(self.model)
        checkpoints.set_tiling(self.model, p.tiling)
        sd_models.apply_token_merging(self.model, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        if not lowvram.is_enabled(run.main):
            checkpoints.move(self.model, devices.device)

    def _place(self) -> Place:
        return Place(
            unet=self.model.model.diffusion_model,
            family=checkpoints.family(self.model),
            phrases=self._phrases(),
            seeds=self.run.seeds,
            device=devices.device,
            dtype=devices.dtype_unet,
            error_prefix=self.error_prefix,
            panel_label=self.panel_label,
        )

    def _phrases(self) -> Phrases | None:
        """Only SD1's adapters have phrases."""
        if checkpoints.family(self.model).split(" ")[0] != "SD1":
            return None
        encoder = self.model.cond_stage_model
        return Phrases(self, encoder, encoder.wrapped.transformer)

    def _lora(self, named: Sequence[Any]) -> lora.Loras:
        return lora.Loras(self.model, named, self.error_prefix, self.run.host.lora_files, self.is_main)

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        with notes_of_main_kept(), self._on_device(), torch.no_grad(), devices.autocast():
            yield

    def _dialect(self) -> tuple[Any, ...]:
        p, opts = self.run.p, shared.opts
        options = (
            opts.use_old_scheduling,
            opts.use_old_emphasis_implementation,
            opts.emphasis,
            opts.comma_padding_backtrack,
            opts.CLIP_stop_at_last_layers,
            opts.sdxl_clip_l_skip,
            opts.sdxl_crop_left,
            opts.sdxl_crop_top,
            opts.sdxl_refiner_low_aesthetic_score,
            opts.sdxl_refiner_high_aesthetic_score,
        )
        if not self.is_main:
            return (*options, *embedding_names())
        data = p.hr_extra_network_data if p.is_hr_pass else p.extra_network_data
        networks = tuple((kind, *(tuple(each.items) for each in named)) for kind, named in (data or {}).items())
        return (*options, *embedding_names(), networks, FileState.of(self.info.filename))

    @cached_property
    def wrap(self) -> Any:
        """The denoiser that the host would give this model for this sampler, with the timesteps that this one uses."""
        main_wrap = self.run.denoiser.inner_model
        if isinstance(main_wrap, sd_samplers_lcm.LCMCompVisDenoiser):
            return sd_samplers_lcm.LCMCompVisDenoiser(self.model)
        external = k_diffusion.external
        kind = external.CompVisVDenoiser if self.model.parameterization == "v" else external.CompVisDenoiser
        run = self.run
        quantize = run.on_whole_timesteps if run.on_timesteps else shared.opts.enable_quantization
        return kind(self.model, quantize=quantize)

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run = self.run
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(self.uncond, step)
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        host_sigma = self.wrap.sigma_to_t(sigma) if run.on_timesteps else sigma
        shown = run.shown(x, sigma, host_sigma)

        def predict(x: torch.Tensor, sigma: torch.Tensor, cond: Any, rows: list[int]) -> torch.Tensor:
            concat = {"c_concat": [image_cond[rows]]}
            told = {**cond, **concat} if isinstance(cond, dict) else {"c_crossattn": [cond], **concat}
            return self.wrap(x, sigma, cond=told)

        cond, uncond = self._padded(cond, uncond)
        with self._on_device(), changed(self.changes), self._adapted():
            denoised = guided(
                predict,
                shown,
                sigma,
                parts,
                cond,
                uncond,
                self.cond_scale,
                run.skips_uncond(step, host_sigma),
                shared.opts.batch_cond_uncond,
                self._announcing(step),
            )
        return x + denoised - shown if run.shows_known else run.masked(denoised, host_sigma)

    def _is_eps_beside_v(self) -> bool:
        return self.model.parameterization != "v" and self.run.main.parameterization == "v"

    @property
    def cond_scale(self) -> float:
        """DDIM CFG++ divides the guidance scale of every model."""
        return super().cond_scale * self.run.denoiser.cond_scale_miltiplier

    def _padded(self, cond: Any, uncond: Any) -> tuple[Any, Any]:
        """Texts of different length as the host's options want them; its empty text is this model's own."""
        opts = shared.opts
        if cond.shape[1] == uncond.shape[1]:
            return cond, uncond
        if opts.pad_cond_uncond_v0:
            # the host's own padding, on a stand-in for the denoiser that it would leave a note on
            return CFGDenoiser.pad_cond_uncond_v0(SimpleNamespace(), cond, uncond)
        if opts.pad_cond_uncond:
            empty = self.run.main.cond_stage_model_empty_prompt if self.is_main else self.texts.get("", self._empty)
            repeats = (cond.shape[1] - uncond.shape[1]) // empty.shape[1]
            if repeats < 0:
                cond = pad_cond(cond, -repeats, empty)
            elif repeats > 0:
                uncond = pad_cond(uncond, repeats, empty)
        return cond, uncond

    def _empty(self) -> torch.Tensor:
        with self._encoding():
            cond = self.model.get_learned_conditioning([""])
        return cond["crossattn"] if isinstance(cond, dict) else cond

    def _adapted(self) -> AbstractContextManager[None]:
        return self.adapter.on(self.model.model.diffusion_model) if self.adapter else nullcontext()

    def _announcing(self, step: int) -> Announce | None:
        if self.adapter is None:
            return None
        share = progress(self.run.denoiser, step)
        return lambda images, prompts: self.adapter.announce(images, prompts, share)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """With --medvram and --lowvram a co-model is on the GPU only while it is used, and no other model is."""
        travels = not self.is_main and lowvram.is_enabled(self.run.main)
        if travels:
            lowvram.send_everything_to_cpu()
            checkpoints.move(self.model, devices.device)
        try:
            yield
        finally:
            if travels:
                checkpoints.move(self.model, devices.cpu)

    def let_go(self) -> None:
        super().let_go()
        vars(self).pop("wrap", None)

    def park(self) -> None:
        """After the early steps: make room on the GPU for the main model's steps and the VAE where little is left."""
        if devices.device.type != "cuda":
            return
        free, _ = torch.cuda.mem_get_info(devices.device)
        if self.adapter and (lowvram.is_enabled(self.run.main) or free < self.adapter.size):
            self.adapter.park()
        if self.is_main:
            return
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        if free < size:
            checkpoints.move(self.model, devices.cpu)
