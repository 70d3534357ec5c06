"""A1111's backend for one pass, by its rules for its own model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import k_diffusion.external
import torch
from modules import devices, lowvram, prompt_parser, sd_samplers_lcm, shared
from modules.sd_samplers_cfg_denoiser import CFGDenoiser, pad_cond

from ...comodels.adapter_use import AtWork
from ...comodels.guidance import Announce, guided, taken
from ...core import accelerator
from ...core.arguments import Prediction
from ...core.levels import preserving_scale, variance_preserving
from ...files.state import FileState
from ..common.autoencoders import PassAutoencoder
from ..common.backend import AdapterPlaces, Backend, Checkpoints, Evaluation, Extensions, Texts, text_options
from ..common.hijack import HIJACK_OPTIONS, embedding_names, notes_of_main_kept
from ..common.pass_run import PassRun
from ..common.slot import progress
from ..common.strangers import functions_of_classes, functions_on
from . import checkpoints, lora
from .main_adapter import work_on_main


def backend(run: PassRun) -> Backend:
    """Make the backend of one pass; models are A1111's modules."""
    evaluator = A1111Evaluator(run)

    def options(model: Any) -> tuple[Any, ...]:
        of_host = (*text_options(*HIJACK_OPTIONS, "sdxl_clip_l_skip"), *embedding_names())
        return (*of_host, *_text_options_of_main(run, model))

    def loras(model: Any, named: Sequence[Any], error_prefix: str) -> lora.Loras:
        return lora.Loras(model, named, error_prefix, run.kept.lora_files, model is run.main)

    flag = "--lowvram" if evaluator.parts_travel else "--medvram"
    return Backend(
        Checkpoints(
            checkpoints.family,
            checkpoints.variant,
            checkpoints.load,
            model_of=lambda loaded: loaded,
            prepare=checkpoints.prepare,
            sigma_max=lambda model: variance_preserving(model.alphas_cumprod[-1].item()).ratio,
            reason_against=checkpoints.reason_against,
        ),
        Texts(evaluator.encoding, options, loras),
        AdapterPlaces(
            _unet_of,
            _phrase_encoder,
            # with --medvram the host moves the encoder there when it is called
            phrase_device=lambda model: devices.device,
            numbers=_numbers,
            image_dtype=lambda device: torch.float32 if device.type == "cpu" else devices.dtype,
            on_main=lambda adapter, evaluated: work_on_main(run.denoiser, adapter, _unet_of(run.main), evaluated),
        ),
        _extensions(run),
        evaluator,
        evaluator.autoencoder,
        memory_remedy="" if shared.cmd_opts.lowvram else f"start the WebUI with {flag}",
        nan_remedy="start the WebUI with --no-half or --upcast-sampling",
        unet_is_final_in_pass=False,
    )


def _numbers(model: Any) -> tuple[torch.device, torch.dtype]:
    device = checkpoints.device_of(model)
    on_cpu = checkpoints.is_elsewhere(model) and device.type == "cpu"
    return device, torch.float32 if on_cpu else devices.dtype_unet


def _text_options_of_main(run: PassRun, model: Any) -> tuple[Any, ...]:
    p = run.p
    if model is not run.main:
        return ()
    data = p.hr_extra_network_data if p.is_hr_pass else p.extra_network_data
    networks = tuple((kind, *(tuple(network.items) for network in named)) for kind, named in (data or {}).items())
    return (networks, FileState.of_loaded(model.sd_checkpoint_info.filename))


def _unet_of(model: Any) -> torch.nn.Module:
    return model.model.diffusion_model


def _phrase_encoder(model: Any) -> tuple[Any, torch.nn.Module] | None:
    if not checkpoints.family(model).has_phrases:
        return None
    encoder = model.cond_stage_model
    return encoder, encoder.wrapped.transformer


def _extensions(run: PassRun) -> Extensions:
    def parts() -> list[torch.nn.Module]:
        return [run.main, *run.main.model.modules()]

    def of_classes() -> list[tuple[str, FunctionType]]:
        return list(functions_of_classes(parts()))

    return Extensions(
        lambda: [*functions_on(parts()), *(function for _, function in of_classes())],
        of_classes,
        lambda model: model is run.main or bool(of_classes()),
    )


class A1111Evaluator:
    """The co-models of a pass (`common.backend.Evaluator`), which are guided here: the host evaluates only its own."""

    def __init__(self, run: PassRun) -> None:
        self.run = run
        self.wraps: dict[int, Any] = {}
        self.sigma: torch.Tensor | None = None
        """The noise level of the main model's last evaluation, in the sampler's form."""
        self.stack = ExitStack()
        self.travelled: torch.nn.Module | None = None
        """A co-model's part that is on the GPU for a while: with --medvram or --lowvram, which allow one part at a
        time, and of a model whose UNet is on another device."""

    @property
    def parts_travel(self) -> bool:
        """True with --medvram and --lowvram, which allow one part of one model on the GPU at a time."""
        return bool(lowvram.is_enabled(self.run.main))

    @contextmanager
    def encoding(self, model: Any) -> Iterator[None]:
        # it stays there, for the slot's other texts, until something else is needed
        self._bring(checkpoints.text_encoder(model) if self._travels(model) else None)
        with notes_of_main_kept(), torch.no_grad(), devices.autocast():
            yield

    def register(self, co_models: Sequence[Any], further: int) -> None:
        """Do nothing: the host does not plan its memory."""

    def start(self) -> None:
        self._bring(None)
        denoiser = self.run.denoiser
        self.stack.callback(denoiser.register_forward_pre_hook(self._note_level).remove)
        if not denoiser.need_last_noise_uncond:
            # the host keeps the prediction without the prompt for some samplers alone
            denoiser.need_last_noise_uncond = True
            self.stack.callback(self._keep_no_base)

    def finish(self) -> None:
        self.stack.close()
        self._bring(None)
        self.drop()

    def drop(self) -> None:
        self.wraps.clear()
        self.travelled = None

    @property
    def main_cfg_scale(self) -> float:
        return self.run.p.cfg_scale

    def cond_scale(self, cfg_scale: float) -> float:
        """Return the guidance scale, which DDIM CFG++ divides for every model."""
        run = self.run
        return (cfg_scale or run.sampler.sampler_extra_args["cond_scale"]) * run.denoiser.cond_scale_miltiplier

    def _travels(self, model: Any) -> bool:
        """Return True for a co-model whose text encoder and VAE are on the GPU only when they are needed."""
        return model is not self.run.main and (self.parts_travel or checkpoints.is_elsewhere(model))

    def main_in_place(self) -> None:
        """Do nothing: the host brings its own model's parts itself."""

    def autoencoder(self, model: Any) -> PassAutoencoder:
        def to_network(latents: torch.Tensor) -> torch.Tensor:
            return latents / model.scale_factor

        def from_network(latents: torch.Tensor) -> torch.Tensor:
            return latents * model.scale_factor

        return PassAutoencoder(
            model.first_stage_model,
            to_network,
            from_network,
            partial(self._autoencoder_in_place, model),
            self.run.pixel_stopwatch,
            after_overflow=_vae_dtype_after_overflow(),
        )

    @contextmanager
    def _autoencoder_in_place(self, model: Any, x: torch.Tensor, decodes: bool) -> Iterator[torch.device]:
        network = model.first_stage_model
        if model is not self.run.main:
            self._bring(network if self._travels(model) else None)
        elif self.parts_travel:
            self._bring(None)
            # the host's own hook, which notes what is on the GPU; it is called by `forward` alone
            for hook in [*network._forward_pre_hooks.values()]:
                hook(network, ())
        try:
            with devices.without_autocast():
                yield devices.device
        finally:
            self._bring(None)

    def park(self, model: Any, adapter: AtWork | None) -> None:
        """Make room for the main model's steps and the VAE if little is left."""
        if checkpoints.is_elsewhere(model):
            return
        free = accelerator.free_memory(devices.device)
        if adapter and (self.parts_travel or (free is not None and free < adapter.size)):
            adapter.park()
        if model is self.run.main or self.parts_travel or free is None:
            return
        if free < sum(p.numel() * p.element_size() for p in model.parameters()):
            checkpoints.move(model, devices.cpu)
            devices.torch_gc()

    def main_base(self) -> torch.Tensor | None:
        # where the host leaves the negative prompt out, it keeps copies of the other prediction
        if self.sigma is None or self.run.skips_uncond(self.run.step, self.sigma):
            return None
        return self.run.denoiser.last_noise_uncond

    def _keep_no_base(self) -> None:
        self.run.denoiser.need_last_noise_uncond, self.run.denoiser.last_noise_uncond = False, None

    def _note_level(self, denoiser: Any, args: tuple[Any, ...]) -> None:
        self.sigma = args[1] if len(args) > 1 else None

    def denoised(self, evaluation: Evaluation) -> Prediction:
        run, model, x, sigma, step = self.run, evaluation.model, evaluation.x, evaluation.sigma, evaluation.step
        wrap = self._wrap(model)
        parts, cond = prompt_parser.reconstruct_multicond_batch(evaluation.cond, step)
        uncond = prompt_parser.reconstruct_cond_batch(evaluation.uncond, step)
        image_cond = run.sampler.sampler_extra_args["image_cond"].to(x.device)
        host_sigma = wrap.sigma_to_t(sigma) if run.on_timesteps else sigma
        is_foreign = evaluation.is_foreign
        shown = x if is_foreign else self._with_known_region(x, sigma, host_sigma)

        def predict(x: torch.Tensor, sigma: torch.Tensor, cond: Any, rows: list[int]) -> torch.Tensor:
            concat = {"c_concat": [taken(image_cond, rows)]}
            inputs = {**cond, **concat} if isinstance(cond, dict) else {"c_crossattn": [cond], **concat}
            return wrap(x, sigma, cond=inputs)

        cond, uncond = (_on(x.device, texts) for texts in self._padded(evaluation, cond, uncond))
        # the LoRAs first: their weights are moved, and those that they replace stay
        with evaluation.with_loras(), self._on_device(model), self._adapted(evaluation):
            denoised, base = guided(
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
        if is_foreign:
            return Prediction(denoised)
        return Prediction(x + denoised - shown if self._shows_known_region else run.masked(denoised, host_sigma), base)

    # parts of an evaluation

    def _wrap(self, model: Any) -> Any:
        """Return the denoiser that the host would make of this model for this sampler, with its timesteps."""
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
        """True if the known picture is blended into the model's input, not into its output."""
        return self.run.denoiser.mask_before_denoising and self.run.denoiser.mask is not None

    def _with_known_region(self, x: torch.Tensor, sigma: torch.Tensor, host_sigma: torch.Tensor) -> torch.Tensor:
        """Return the model's input; timestep samplers blend in its variance-preserving form."""
        if not self._shows_known_region:
            return x
        scale = preserving_scale(sigma).view(-1, *[1] * (x.ndim - 1))
        return self.run.masked(x / scale, host_sigma) * scale

    def _padded(self, evaluation: Evaluation, cond: Any, uncond: Any) -> tuple[Any, Any]:
        """Pad texts of different length by the host's options, with this model's own empty text."""
        opts, model = shared.opts, evaluation.model
        if cond.shape[1] == uncond.shape[1]:
            return cond, uncond
        if opts.pad_cond_uncond_v0:
            # the host's own padding, on a stand-in for the denoiser, on which it sets an attribute
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
        return evaluation.adapter.on(_unet_of(evaluation.model)) if evaluation.adapter else nullcontext()

    def _announcing(self, evaluation: Evaluation) -> Announce | None:
        adapter = evaluation.adapter
        if adapter is None:
            return None
        share = progress(self.run.denoiser, evaluation.step)
        return lambda images, prompts: adapter.announce(images, prompts, share)

    @contextmanager
    def _on_device(self, model: Any) -> Iterator[None]:
        """Have the model's UNet on its device during the context."""
        self._bring(model.model if self._travels(model) and not checkpoints.is_elsewhere(model) else None)
        try:
            yield
        finally:
            self._bring(None)

    def _bring(self, part: torch.nn.Module | None) -> None:
        """Have only this part of a co-model on the GPU, of those that are moved; None: no co-model's part.

        The host moves its main model's parts itself.
        """
        if part is self.travelled:
            return
        back, self.travelled = self.travelled, None
        if back is not None:
            checkpoints.move(back, devices.cpu)
        if part is not None:
            if self.parts_travel:
                lowvram.send_everything_to_cpu()
            checkpoints.move(part, devices.device)
            self.travelled = part


def _vae_dtype_after_overflow() -> torch.dtype | None:
    """Return the dtype to which the host converts a VAE that gave NaN, by its options; None: it does not."""
    if shared.opts.auto_vae_precision_bfloat16:
        return torch.bfloat16
    return torch.float32 if shared.opts.auto_vae_precision else None


def _on(device: torch.device, texts: Any) -> Any:
    """Return encoded texts on a device: a tensor, or several by name."""
    if isinstance(texts, dict):
        return {name: text.to(device) for name, text in texts.items()}
    return texts.to(device)
