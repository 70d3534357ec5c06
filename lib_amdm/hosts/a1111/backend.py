"""A1111's answers about its models in one pass, by the rules that it has for its own (`common.backend.Backend`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import k_diffusion.external
import torch
from modules import devices, lowvram, prompt_parser, sd_models, sd_samplers_lcm, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser, pad_cond

from ...comodels.adapter_use import AtWork
from ...comodels.cache import Loaded
from ...comodels.guidance import Announce, guided, taken
from ...core import accelerator
from ...core.levels import preserving_scale, variance_preserving
from ...families import Family
from ...files.state import FileState
from ..common import refusals
from ..common.backend import Evaluation
from ..common.hijack import embedding_names, notes_of_main_kept
from ..common.pass_run import PassRun
from ..common.slot import progress
from ..common.strangers import functions_of_classes, functions_on
from . import checkpoints, lora
from .main_adapter import MainAdapterByCount


class A1111Backend:
    """Models are A1111's modules. The host evaluates its one model itself, so co-models are guided here."""

    nan_remedy = "start the WebUI with --no-half or --upcast-sampling"
    unet_is_final_in_pass = False

    def __init__(self, run: PassRun) -> None:
        self.run = run
        self.wraps: dict[int, Any] = {}
        self.travelled: torch.nn.Module | None = None
        """The co-model's part that is on the GPU, where --medvram or --lowvram let one part be there at a time."""

    @property
    def memory_remedy(self) -> str:
        flag = "--lowvram" if self._parts_travel else "--medvram"
        return "" if shared.cmd_opts.lowvram else f"start the WebUI with {flag}"

    # a checkpoint

    def refuse_main(self, others: str) -> None:
        family, name = self.family(self.run.main), self.run.main.sd_checkpoint_info.name
        refusals.refuse_flow(family, name)
        refusals.refuse_main(family, name, others)

    def family(self, model: Any) -> Family:
        return checkpoints.family(model)

    def variant(self) -> tuple[Any, ...]:
        return checkpoints.variant()

    def load(self, info: Any, slot: int) -> Loaded:
        return checkpoints.load(info, self.run.main, slot)

    def model_of(self, loaded: torch.nn.Module) -> Any:
        return loaded

    def prepare(self, loaded: Any) -> None:
        p = self.run.p
        if loaded.parameterization != "v" and self.run.main.parameterization == "v":
            # the option's noise schedule is the main model's; this one keeps to the one that it was trained on
            loaded.alphas_cumprod = loaded.alphas_cumprod_original.to(devices.device)
        else:
            sd_models.apply_alpha_schedule_override(loaded)
        checkpoints.set_tiling(loaded, p.tiling)
        sd_models.apply_token_merging(loaded, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        if self._parts_travel:
            checkpoints.place_small_parts(loaded)
        else:
            checkpoints.move(loaded, devices.device)

    def sigma_max(self, model: Any) -> float:
        return variance_preserving(model.alphas_cumprod[-1].item()).ratio

    def main_has_other_weights(self) -> bool:
        return False

    # its texts

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        # it stays there, for the slot's other texts, until something else is needed
        self._bring(None if model is self.run.main else checkpoints.text_encoder(model))
        with notes_of_main_kept(), torch.no_grad(), devices.autocast():
            yield

    def text_arguments(self) -> dict[str, Any]:
        return {}

    def parser_options(self) -> tuple[Any, ...]:
        return (shared.opts.use_old_scheduling,)

    def text_options(self, model: Any) -> tuple[Any, ...]:
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
            *embedding_names(),
        )
        if model is not self.run.main:
            return options
        data = p.hr_extra_network_data if p.is_hr_pass else p.extra_network_data
        networks = tuple((kind, *(tuple(each.items) for each in named)) for kind, named in (data or {}).items())
        return (*options, networks, FileState.of_loaded(model.sd_checkpoint_info.filename))

    def needs_negative(self, cfg_scale: float) -> bool:
        return True

    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> lora.Loras:
        return lora.Loras(model, named, error_prefix, self.run.kept.lora_files, model is self.run.main)

    # adapters

    def unet(self, model: Any) -> torch.nn.Module:
        return model.model.diffusion_model

    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None:
        if not self.family(model).has_phrases:
            return None
        encoder = model.cond_stage_model
        return encoder, encoder.wrapped.transformer

    def phrase_device(self, model: Any) -> torch.device:
        # with --medvram the host brings the encoder there when it is called
        return devices.device

    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]:
        return devices.device, devices.dtype_unet

    @property
    def image_dtype(self) -> torch.dtype:
        half: torch.dtype = devices.dtype
        return torch.float32 if devices.device.type == "cpu" else half

    def make_room(self, size: int) -> None:
        """Do nothing: the host does not plan its memory."""

    def main_adapter(self, adapter: AtWork, evaluated: Callable[[], None]) -> MainAdapterByCount:
        return MainAdapterByCount(self.run.denoiser, adapter, self.unet(self.run.main), evaluated)

    # other extensions

    def foreign_functions(self) -> list[Any]:
        return [*functions_on(self._denoising_parts), *(function for _, function in self.functions_of_classes())]

    def functions_of_classes(self) -> list[tuple[str, FunctionType]]:
        return list(functions_of_classes(self._denoising_parts))

    def has_foreign_functions(self, model: Any) -> bool:
        return model is self.run.main or bool(self.functions_of_classes())

    @property
    def _denoising_parts(self) -> list[torch.nn.Module]:
        main = self.run.main
        return [main, *main.model.modules()]

    # the pass

    def register(self, co_models: Sequence[Any], further: int) -> None:
        """Do nothing: the host does not plan its memory."""

    def start(self) -> None:
        self._bring(None)

    def finish(self) -> None:
        self._bring(None)
        self.drop()

    def drop(self) -> None:
        self.wraps.clear()
        self.travelled = None

    def cond_scale(self, cfg_scale: float) -> float:
        """DDIM CFG++ divides the guidance scale of every model."""
        run = self.run
        return (cfg_scale or run.sampler.sampler_extra_args["cond_scale"]) * run.denoiser.cond_scale_miltiplier

    def park(self, model: Any, adapter: AtWork | None) -> None:
        """Make room for the main model's steps and the VAE where little is left."""
        free = accelerator.free_memory(devices.device)
        if adapter and (self._parts_travel or (free is not None and free < adapter.size)):
            adapter.park()
        if model is self.run.main or self._parts_travel or free is None:
            return
        if free < sum(p.numel() * p.element_size() for p in model.parameters()):
            checkpoints.move(model, devices.cpu)
            devices.torch_gc()

    def denoised(self, evaluation: Evaluation) -> torch.Tensor:
        run, model, x, sigma, step = self.run, evaluation.model, evaluation.x, evaluation.sigma, evaluation.step
        wrap = self._wrap(model)
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(evaluation.uncond, step)
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        host_sigma = wrap.sigma_to_t(sigma) if run.on_timesteps else sigma
        shown = self._with_known_region(x, sigma, host_sigma)

        def predict(x: torch.Tensor, sigma: torch.Tensor, cond: Any, rows: list[int]) -> torch.Tensor:
            concat = {"c_concat": [taken(image_cond, rows)]}
            inputs = {**cond, **concat} if isinstance(cond, dict) else {"c_crossattn": [cond], **concat}
            return wrap(x, sigma, cond=inputs)

        cond, uncond = self._padded(evaluation, cond, uncond)
        # the LoRAs first: their weights travel, and those in their places stay
        with evaluation.with_loras(), self._on_device(model), self._adapted(evaluation):
            denoised = guided(
                predict,
                shown,
                sigma,
                parts,
                cond,
                uncond,
                evaluation.cond_scale,
                run.skips_uncond(step, host_sigma),
                shared.opts.batch_cond_uncond,
                self._announcing(evaluation),
            )
        return x + denoised - shown if self._shows_known_region else run.masked(denoised, host_sigma)

    # parts of an evaluation

    def _wrap(self, model: Any) -> Any:
        """The denoiser that the host would give this model for this sampler, with the timesteps that this one uses."""
        if id(model) not in self.wraps:
            self.wraps[id(model)] = self._new_wrap(model)
        return self.wraps[id(model)]

    def _new_wrap(self, model: Any) -> Any:
        run, external = self.run, k_diffusion.external
        if isinstance(run.denoiser.inner_model, sd_samplers_lcm.LCMCompVisDenoiser):
            return sd_samplers_lcm.LCMCompVisDenoiser(model)
        kind = external.CompVisVDenoiser if model.parameterization == "v" else external.CompVisDenoiser
        quantize = run.on_whole_timesteps if run.on_timesteps else shared.opts.enable_quantization
        return kind(model, quantize=quantize)

    @property
    def _shows_known_region(self) -> bool:
        """True where the known picture is blended into the latent that a model is shown, and not into its answer."""
        return self.run.denoiser.mask_before_denoising and self.run.denoiser.mask is not None

    def _with_known_region(self, x: torch.Tensor, sigma: torch.Tensor, host_sigma: torch.Tensor) -> torch.Tensor:
        """The latent that a model is shown; timestep samplers blend in its variance-preserving form."""
        if not self._shows_known_region:
            return x
        scale = preserving_scale(sigma).view(-1, *[1] * (x.ndim - 1))
        return self.run.masked(x / scale, host_sigma) * scale

    def _padded(self, evaluation: Evaluation, cond: Any, uncond: Any) -> tuple[Any, Any]:
        """Texts of different length as the host's options want them; its empty text is this model's own."""
        opts, model = shared.opts, evaluation.model
        if cond.shape[1] == uncond.shape[1]:
            return cond, uncond
        if opts.pad_cond_uncond_v0:
            # the host's own padding, on a stand-in for the denoiser that it would leave a note on
            return CFGDenoiser.pad_cond_uncond_v0(SimpleNamespace(), cond, uncond)
        if opts.pad_cond_uncond:
            if model is self.run.main:
                empty = model.cond_stage_model_empty_prompt
            else:
                empty = evaluation.texts.get("", partial(self._empty_text, model))
            repeats = (cond.shape[1] - uncond.shape[1]) // empty.shape[1]
            if repeats < 0:
                cond = pad_cond(cond, -repeats, empty)
            elif repeats > 0:
                uncond = pad_cond(uncond, repeats, empty)
        return cond, uncond

    def _empty_text(self, model: Any) -> torch.Tensor:
        with self.encoding(model):
            cond = model.get_learned_conditioning([""])
        return cond["crossattn"] if isinstance(cond, dict) else cond

    def _adapted(self, evaluation: Evaluation) -> AbstractContextManager[None]:
        return evaluation.adapter.on(self.unet(evaluation.model)) if evaluation.adapter else nullcontext()

    def _announcing(self, evaluation: Evaluation) -> Announce | None:
        adapter = evaluation.adapter
        if adapter is None:
            return None
        share = progress(self.run.denoiser, evaluation.step)
        return lambda images, prompts: adapter.announce(images, prompts, share)

    @property
    def _parts_travel(self) -> bool:
        """True with --medvram and --lowvram, where one part of one model is on the GPU at a time."""
        return bool(lowvram.is_enabled(self.run.main))

    @contextmanager
    def _on_device(self, model: Any) -> Iterator[None]:
        """A context in which the model's UNet is on the GPU."""
        self._bring(None if model is self.run.main else model.model)
        try:
            yield
        finally:
            self._bring(None)

    def _bring(self, part: torch.nn.Module | None) -> None:
        """Have this part of a co-model on the GPU, where parts travel, and nothing else; None: no part of theirs.

        The host brings its main model's parts by itself.
        """
        if not self._parts_travel or part is self.travelled:
            return
        back, self.travelled = self.travelled, None
        if back is not None:
            checkpoints.move(back, devices.cpu)
        if part is not None:
            lowvram.send_everything_to_cpu()
            checkpoints.move(part, devices.device)
            self.travelled = part
