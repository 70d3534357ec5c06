"""A1111 1.10: how co-models are run beside the main model in one pass, by the rules that the host has for its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import k_diffusion.external
import torch
from modules import (
    devices,
    extra_networks,
    lowvram,
    prompt_parser,
    scripts,
    sd_hijack,
    sd_models,
    sd_samplers,
    sd_samplers_common,
    sd_samplers_lcm,
    shared,
)
from modules.sd_samplers_cfg_denoiser import CFGDenoiser, pad_cond

from ..comodels.base import AmdmError
from ..comodels.guidance import guided
from ..comodels.pool import FileState
from ..sampling import CoRun, private_seeds
from ..settings import MAIN_CHECKPOINT, CoModel
from . import a1111_models

if TYPE_CHECKING:
    from .a1111 import A1111


class A1111Run:
    """One pass of one batch: the co-models of its slots, their texts, and how the main model's rules apply to them."""

    def __init__(
        self, host: A1111, p: Any, goes_on: bool, hook: Mapping[str, Any], sampler: Callable[..., Any], steps: int
    ) -> None:
        self.host, self.p, self.goes_on, self.hook, self.steps = host, p, goes_on, hook, steps
        self.sampler = p.sampler
        self.on_timesteps = "timesteps" in inspect.signature(sampler).parameters
        self.main = shared.sd_model
        self.main_file = self.main.sd_checkpoint_info.filename
        self.stopped = False
        self.models: list[_SlotModel] = []

    @property
    def denoiser(self) -> Any:
        return self.sampler.model_wrap_cfg

    def co_runs(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        a1111_models.refuse_main(self.main)
        try:
            self.models = [_SlotModel(self, number, slot) for number, slot in slots]
        finally:
            shared.state.textinfo = None
        return [
            CoRun(model.denoise, model.slot.gamma, model.slot.eta, model.slot.noise, self._seeds(model.number))
            for model in self.models
        ]

    def _seeds(self, number: int) -> list[int]:
        return private_seeds(self.p.seeds[: len(self.hook["noise"])], number)

    def sampler_options(self) -> dict[str, Any]:
        x, noise = self.hook["x"], self.hook["noise"]
        return {
            "init": None if x is noise else x,
            "nominal_steps": self.pass_steps,
            "shortest_tail": shared.opts.uni_pc_order,
            "going": self.going,
        }

    @property
    def pass_steps(self) -> int:
        p = self.p
        return (p.hr_second_pass_steps or p.steps) if p.is_hr_pass else p.steps

    def titles(self) -> dict[int, str]:
        return {model.number: model.title for model in self.models}

    def going(self) -> bool:
        """False once the models must not be mixed any more: the refiner took over, or a co-model failed."""
        if not self.stopped and shared.sd_model.sd_checkpoint_info.filename != self.main_file:
            self.stop("AMDM: the refiner took over in the early steps, so the models were run together only before it.")
        return not self.stopped

    def stop(self, why: str) -> None:
        self.stopped = True
        self.p.comment(why)

    def failed(self, error: AmdmError) -> None:
        """Raise, which ends the picture; or note it and let the main model go on alone, where the user wants that."""
        if not self.goes_on:
            raise error
        self.stop(str(error))

    def finish(self, pool_limit: int) -> bool:
        shared.state.textinfo = None
        ran = any(model.evaluations for model in self.models)
        for model in self.models:
            model.park()
        self.models = []
        self.host.pool.trim(pool_limit)
        return ran

    def skips_uncond(self, step: int, sigma: float) -> bool:
        """The host's rules for leaving out the negative prompt: "skip early CFG" and NGMS."""
        opts, denoiser = shared.opts, self.denoiser
        if opts.skip_early_cond != 0 and step / denoiser.total_steps <= opts.skip_early_cond:
            return True
        least = self.sampler.sampler_extra_args["s_min_uncond"]
        return bool((step % 2 or opts.s_min_uncond_all) and least > 0 and sigma < least)

    @property
    def shows_known(self) -> bool:
        """Whether the known picture is blended into what a model is shown, and not into what it answers."""
        return self.denoiser.mask_before_denoising and self.denoiser.mask is not None

    def shown(self, x: torch.Tensor, sigma: torch.Tensor, host_sigma: torch.Tensor) -> torch.Tensor:
        """What a model is shown of a latent; timestep samplers blend in its variance-preserving form."""
        if not self.shows_known:
            return x
        scale = (1 + sigma**2).sqrt().view(-1, *[1] * (x.ndim - 1))
        return self.masked(x / scale, host_sigma) * scale

    def masked(self, denoised: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Outside the mask of an inpainting the picture is known to every model."""
        d = self.denoiser
        if d.mask is None:
            return denoised
        blended = denoised * d.nmask + d.init_latent * d.mask
        if self.p.scripts is None:
            return blended
        told = scripts.MaskBlendArgs(denoised, d.nmask, d.init_latent, d.mask, blended, denoiser=d, sigma=sigma)
        self.p.scripts.on_mask_blend(self.p, told)
        return told.blended_latent


class _SlotModel:
    """One slot's model in one pass: loaded, its texts encoded, ready to denoise."""

    def __init__(self, run: A1111Run, number: int, slot: CoModel) -> None:
        self.run, self.number, self.slot = run, number, slot
        self.evaluations = 0
        self.is_main = slot.checkpoint == MAIN_CHECKPOINT
        self.info = run.main.sd_checkpoint_info if self.is_main else self._find()
        self.title = MAIN_CHECKPOINT if self.is_main else self.info.title
        shared.state.textinfo = f"AMDM: loading {self.info.name_for_extra}"
        with self._in_words("loading"):
            self._open()

    def _open(self) -> None:
        run, number = self.run, self.number
        if self.is_main:
            self.model, self.texts = run.main, run.host.main_texts
        else:
            load = partial(a1111_models.load, self.info, run.main, number)
            kept = run.host.pool.get(self.info.filename, a1111_models.variant(), load)
            # the family is checked again because the kept one may have been loaded beside another main model
            a1111_models.refuse_stranger(kept.model, self.info, run.main, number)
            self.model, self.texts, self.title = kept.model, kept.texts, self.info.title
            self._prepare()
        self.cond, self.uncond = self._encode()
        self.wrap = self._wrap()

    def _find(self) -> sd_models.CheckpointInfo:
        info = a1111_models.find_checkpoint(self.slot.checkpoint)
        if info is None:
            raise AmdmError(
                f'AMDM slot {self.number}: "{self.slot.checkpoint}" is not in the WebUI\'s list of checkpoints; '
                "refresh the list or choose another checkpoint."
            )
        return info

    def _prepare(self) -> None:
        p = self.run.p
        sd_models.apply_alpha_schedule_override(self.model)
        a1111_models.set_tiling(self.model, p.tiling)
        sd_models.apply_token_merging(self.model, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        if not lowvram.is_enabled(self.run.main):
            a1111_models.move(self.model, devices.device)

    def _encode(self) -> tuple[Any, Any]:
        """The slot's own texts, or the main prompt's, through this model's text encoder, as the host schedules them."""
        p, hook = self.run.p, self.run.hook
        hires = p.is_hr_pass
        mains = (p.hr_prompts, p.hr_negative_prompts) if hires else (p.prompts, p.negative_prompts)
        encoders = (prompt_parser.get_multicond_learned_conditioning, prompt_parser.get_learned_conditioning)
        conds = []
        for given, main, encoder, ready in zip(
            (self.slot.prompt, self.slot.negative_prompt), mains, encoders, (hook["c"], hook["uc"])
        ):
            if self.is_main and not given:
                conds.append(ready)
            else:
                conds.append(self._encoded([self._plain(given)] * len(main) if given else main, encoder))
        return conds[0], conds[1]

    def _plain(self, text: str) -> str:
        """The slot's text without anything that only the main prompt can carry."""
        text, networks = extra_networks.parse_prompt(text)
        if networks:
            raise AmdmError(
                f'AMDM slot {self.number}: its prompt names an extra network ("<{next(iter(networks))}:...>"), which '
                "co-models cannot load; remove it from the slot's prompt."
            )
        return text

    def _encoded(self, texts: list[str], encoder: Callable[..., Any]) -> Any:
        p = self.run.p
        hires, negative = p.is_hr_pass, encoder is prompt_parser.get_learned_conditioning
        width, height = (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)
        texts = prompt_parser.SdConditioning(texts, is_negative_prompt=negative, width=width, height=height)
        config = sd_samplers.find_sampler_config(p.sampler_name)
        steps = config.total_steps(p.steps) if config else p.steps
        hires_steps = None
        if hires:
            config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
            hires_steps = config.total_steps(self.run.pass_steps) if config else self.run.pass_steps
        old = shared.opts.use_old_scheduling

        def encode() -> Any:
            hijack = sd_hijack.model_hijack
            kept = hijack.extra_generation_params.copy(), hijack.comments.copy()
            try:
                with self._on_device(), torch.no_grad(), devices.autocast():
                    return encoder(self.model, texts, steps, hires_steps, old)
            finally:
                hijack.extra_generation_params, hijack.comments = kept

        return self.texts.get((tuple(texts), negative, width, height, steps, hires_steps, *self._dialect()), encode)

    def _dialect(self) -> tuple[Any, ...]:
        """What, beside a text and its schedule, decides how this model encodes it."""
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
        embeddings = tuple(sorted(sd_hijack.model_hijack.embedding_db.word_embeddings))
        if not self.is_main:
            return (*options, embeddings)
        data = p.hr_extra_network_data if p.is_hr_pass else p.extra_network_data
        networks = tuple((kind, *(tuple(each.items) for each in named)) for kind, named in (data or {}).items())
        return (*options, embeddings, networks, FileState.of(self.info.filename))

    def _wrap(self) -> Any:
        """The denoiser that the host would give this model for this sampler; timestep samplers use whole timesteps."""
        main_wrap = self.run.denoiser.inner_model
        if isinstance(main_wrap, sd_samplers_lcm.LCMCompVisDenoiser):
            return sd_samplers_lcm.LCMCompVisDenoiser(self.model)
        external = k_diffusion.external
        kind = external.CompVisVDenoiser if self.model.parameterization == "v" else external.CompVisDenoiser
        return kind(self.model, quantize=self.run.on_timesteps or shared.opts.enable_quantization)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The model's denoised latent after guidance (`sampling.CoRun.denoise`)."""
        state, run = shared.state, self.run
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if run.stopped:
            return x
        step = run.denoiser.step - 1
        early = min(run.steps, run.pass_steps)
        state.textinfo = f"AMDM: step {self.evaluations + 1} of {early}, {self.info.name_for_extra}"
        try:
            with self._in_words("running"):
                denoised = self._denoised(x, sigma, step)
            self._refuse_nan(denoised)
        except AmdmError as error:
            run.failed(error)
            return x
        self.evaluations += 1
        return denoised

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        run = self.run
        parts, cond = prompt_parser.reconstruct_multicond_batch(self.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(self.uncond, step)
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        host_sigma = self.wrap.sigma_to_t(sigma) if run.on_timesteps else sigma
        cond_scale = self.slot.cfg_scale or run.sampler.sampler_extra_args["cond_scale"]
        shown = run.shown(x, sigma, host_sigma)

        def predict(x: torch.Tensor, sigma: torch.Tensor, cond: Any, rows: list[int]) -> torch.Tensor:
            concat = {"c_concat": [image_cond[rows]]}
            told = {**cond, **concat} if isinstance(cond, dict) else {"c_crossattn": [cond], **concat}
            return self.wrap(x, sigma, cond=told)

        with self._on_device():
            denoised = guided(
                predict,
                shown,
                sigma,
                parts,
                *self._padded(cond, uncond),
                cond_scale,
                run.skips_uncond(step, host_sigma[0].item()),
                shared.opts.batch_cond_uncond,
            )
        return x + denoised - shown if run.shows_known else run.masked(denoised, host_sigma)

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
        with torch.no_grad(), devices.autocast():
            cond = self.model.get_learned_conditioning([""])
        return cond["crossattn"] if isinstance(cond, dict) else cond

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """With --medvram and --lowvram a co-model is on the GPU only while it is used, and no other model is."""
        travels = not self.is_main and lowvram.is_enabled(self.run.main)
        if travels:
            lowvram.send_everything_to_cpu()
            a1111_models.move(self.model, devices.device)
        try:
            yield
        finally:
            if travels:
                a1111_models.move(self.model, devices.cpu)

    def park(self) -> None:
        """After the early steps: make room on the GPU for the main model's steps and the VAE where little is left."""
        if self.is_main or devices.device.type != "cuda":
            return
        free, _ = torch.cuda.mem_get_info(devices.device)
        size = sum(p.numel() * p.element_size() for p in self.model.parameters())
        if free < size:
            a1111_models.move(self.model, devices.cpu)

    def _refuse_nan(self, denoised: torch.Tensor) -> None:
        if not shared.cmd_opts.disable_nan_check and not torch.isfinite(denoised).all():
            raise AmdmError(
                f'AMDM slot {self.number}: "{self.info.name}" gave NaN; choose another checkpoint, or start the WebUI '
                "with --no-half or --upcast-sampling."
            )

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong becomes one sentence that names the slot, the file and the remedy."""
        try:
            yield
        except AmdmError:
            raise
        except torch.cuda.OutOfMemoryError as error:
            self.run.host.unload()
            raise AmdmError(
                f'AMDM slot {self.number}: there is not enough GPU memory for "{self.info.name}" beside the main '
                "checkpoint; use fewer co-models, a smaller picture, or start the WebUI with --medvram."
            ) from error
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise AmdmError(
                f'AMDM slot {self.number}: {doing} "{self.info.name}" failed ({reason}); '
                "choose another checkpoint or empty the slot."
            ) from error
