"""The backend parts of Forge, reForge and Forge Neo: a memory manager moves their models, which are in patchers.

The manager knows the co-models: a copy of the main UNet's patcher lists them as additional models. So the manager
plans the GPU's memory for all of them before the pass, and takes memory from them afterwards if it needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from modules import devices, shared
from modules.script_callbacks import CFGDenoiserParams

from ...comodels.adapter_use import AtWork
from ...core import accelerator
from ...core.arguments import Prediction
from ...files.state import FileState
from ..webui_types import Engine, Patcher
from .autoencoders import PassAutoencoder
from .backend import AdapterPlaces, Evaluation, Extensions
from .memory_managers import MemoryManager, give_way
from .pass_run import PassRun
from .patcher_adapters import work_on_main, working
from .slot import progress
from .strangers import formulas, functions_in, functions_of_classes, functions_on

Guide = Callable[["PatcherEvaluator", Evaluation], Prediction]
READERS = "sampler_post_cfg_function"
"""A patcher's option for functions that are called with the parts of each guided prediction."""


def unet_of(model: Engine) -> torch.nn.Module:
    return model.forge_objects.unet.model.diffusion_model


def text_options_of_main(run: PassRun, model: Engine, variant: Callable[[], tuple[Any, ...]]) -> tuple[Any, ...]:
    """Return what decides, with the host's options, how the main model encodes a text; nothing for a co-model."""
    if model is not run.main:
        return ()
    return (model.current_lora_hash, *variant(), FileState.of_loaded(model.sd_checkpoint_info.filename))


def remedy_by_flags(args: Any, flags: Sequence[str], otherwise: str) -> str:
    """Return the remedy for too little memory: start without the first of these flags that is set, or `otherwise`."""
    chosen = next((flag for flag in flags if getattr(args, flag)), None)
    return f"start the WebUI without --{chosen.replace('_', '-')}" if chosen else otherwise


def adapter_places(
    run: PassRun,
    memory: MemoryManager,
    phrase_encoder: Callable[[Any], tuple[Any, torch.nn.Module] | None],
    phrase_device: Callable[[Any], torch.device],
    dtype_of: Callable[[Any], torch.dtype],
) -> AdapterPlaces:
    """Return the places of adapters. dtype_of: the dtype that a UNet in a patcher computes in."""

    def image_dtype(device: torch.device) -> torch.dtype:
        half = device.type != "cpu" and memory.should_use_fp16(device, prioritize_performance=False)
        return torch.float16 if half else torch.float32

    def make_room(device: torch.device, size: int) -> None:
        if device.type != "cpu":
            memory.free_memory(size, device)

    return AdapterPlaces(
        unet_of,
        phrase_encoder,
        phrase_device,
        lambda model: (model.forge_objects.unet.load_device, dtype_of(model.forge_objects.unet.model)),
        image_dtype,
        lambda adapter, evaluated: work_on_main(run.denoiser, adapter, unet_of(run.main), evaluated),
        make_room,
    )


def extensions(run: PassRun) -> Extensions:
    def of_classes() -> list[tuple[str, FunctionType]]:
        return list(functions_of_classes(run.main.forge_objects.unet.model.modules()))

    def functions() -> list[Any]:
        unet = run.main.forge_objects.unet
        by_class = (function for _, function in of_classes())
        return [*functions_in(unet.model_options), *functions_on(unet.model.modules()), *by_class]

    def act_on(model: Engine) -> bool:
        return model is run.main or bool(_formulas(run, model)) or bool(of_classes())

    return Extensions(functions, of_classes, act_on)


def _formulas(run: PassRun, model: Engine) -> dict[str, Any]:
    """Return the part of the main model's present guidance that can apply to a co-model too."""
    return formulas(run.main.forge_objects.unet.model_options, model.forge_objects.unet)


@contextmanager
def _guided_as_main(run: PassRun, model: Engine) -> Iterator[None]:
    """Give a co-model the main model's guidance, with other extensions' functions, during the context."""
    options, formulas = model.forge_objects.unet.model_options, _formulas(run, model)
    replaced = {name: options[name] for name in formulas if name in options}
    options.update(formulas)
    try:
        yield
    finally:
        for name in formulas:
            del options[name]
        options.update(replaced)


def _together(sampling: float, further: float) -> dict[str, float]:
    return {"memory_required": sampling + further}


class BaseReader:
    """A function among a patcher's options, which keeps the last prediction without the prompt."""

    last: torch.Tensor | None = None
    last_input: tuple[torch.Tensor, torch.Tensor] | None = None
    """The latent and the noise level that the model was shown then."""

    def __call__(self, parts: Mapping[str, Any]) -> torch.Tensor:
        self.last = None if parts["uncond"] is None else parts["uncond_denoised"]
        self.last_input = parts["input"], parts["sigma"]
        return parts["denoised"]

    @contextmanager
    def on(self, options: dict[str, Any]) -> Iterator[None]:
        """Read the predictions of a patcher with these options during the context."""
        before = options.get(READERS)
        options[READERS] = [*(before or []), self]
        try:
            yield
        finally:
            options[READERS] = [function for function in options[READERS] if function is not self]
            if before is None and not options[READERS]:
                del options[READERS]

    def clear(self) -> None:
        self.last = self.last_input = None


@dataclass(eq=False)
class PatcherEvaluator:
    """The co-models of a pass in their patchers (`backend.Evaluator`)."""

    run: PassRun
    memory: MemoryManager
    guide: Guide
    """Returns the prediction of an evaluation."""
    memory_for_pass: Callable[[float, float], dict[str, float]] = _together
    """The host's arguments when it loads a pass's models, for the bytes of an evaluation and further ones."""
    guidance_factor: Callable[[], float] = lambda: 1
    """The sampler's factor of every guidance scale."""
    gives_way: bool = False
    """True if the memory manager does not give the main model priority."""
    in_pass: Callable[[PatcherEvaluator], AbstractContextManager[Any]] = nullcontext
    """A context for the pass, from the time when its co-models are known."""

    base: BaseReader = field(default_factory=BaseReader)
    own_unets: list[Patcher] = field(default_factory=list)
    registered_at: Patcher | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    random: tuple[torch.Tensor, torch.Tensor | None] | None = None
    """The states of the generators of the CPU and of the device."""
    stack: ExitStack = field(default_factory=ExitStack)

    def register(self, co_models: Sequence[Engine], further: int) -> None:
        unets = {id(model.forge_objects.unet): model.forge_objects.unet for model in co_models}
        self.own_unets = [*unets.values()]
        self.stack.enter_context(self.in_pass(self))
        if unets or further:
            # the host puts the main model's own patcher back before every pass
            main = self.run.main.forge_objects
            self.registered_at = main.unet = main.unet.clone()
            self.registered_at.extra_preserved_memory_during_sampling += further
            for unet in self.own_unets:
                self.registered_at.add_extra_model_patcher_during_sampling(unet)
        if unets:
            # as the host does next; here an error can be worded
            self._load(self.run.hook["x"].shape)

    def start(self) -> None:
        self.device = self.run.hook["x"].device
        watch = self.run.denoiser.register_forward_pre_hook(self._remember_random_numbers)
        self.stack.callback(watch.remove)
        self.stack.callback(self.base.clear)
        self.stack.enter_context(self.base.on(self.run.main.forge_objects.unet.model_options))
        self._give_way()

    def finish(self) -> None:
        self.stack.close()
        self.drop()

    def drop(self) -> None:
        # other extensions may have copied the patcher, and its list with it; a refiner may have replaced all of it
        now = getattr(getattr(self.run.main, "forge_objects", None), "unet", None)
        for patcher in (self.registered_at, now):
            if patcher is not None:
                needed = patcher.extra_model_patchers_during_sampling
                needed[:] = [extra for extra in needed if not any(extra is unet for unet in self.own_unets)]
        self.registered_at, self.own_unets = None, []

    @property
    def main_cfg_scale(self) -> float:
        p = self.run.p
        return p.hr_cfg if p.is_hr_pass else p.cfg_scale

    def cond_scale(self, cfg_scale: float) -> float:
        return (cfg_scale or self.main_cfg_scale) * self.guidance_factor()

    def main_base(self) -> torch.Tensor | None:
        base, shown = self.base.last, self.base.last_input
        if base is None or shown is None or not self.run.on_timesteps:
            return base
        # timestep samplers get the noise
        latent, sigma = shown
        return (latent - base) / sigma.view(-1, *[1] * (base.ndim - 1))

    def denoised(self, evaluation: Evaluation) -> Prediction:
        return self.guide(self, evaluation)

    def main_in_place(self) -> None:
        self._load(self.run.hook["x"].shape)
        self._give_way()

    def autoencoder(self, model: Engine, scaled: Any) -> PassAutoencoder:
        """Return a model's autoencoder. scaled: has the host's `process_in` and `process_out` of its latents."""
        vae = model.forge_objects.vae
        return PassAutoencoder(
            vae.first_stage_model,
            scaled.process_out,
            scaled.process_in,
            partial(self._autoencoder_in_place, vae),
            self.run.pixel_stopwatch,
            has_frames=getattr(vae, "is_wan", False),
            always_tiled=self.memory.VAE_ALWAYS_TILED,
        )

    @contextmanager
    def _autoencoder_in_place(self, vae: Any, x: torch.Tensor, decodes: bool) -> Iterator[torch.device]:
        needed = (vae.memory_used_decode if decodes else vae.memory_used_encode)(x.shape, vae.vae_dtype)
        self.memory.load_models_gpu([vae.patcher], memory_required=needed)
        with devices.without_autocast():
            yield vae.device

    def park(self, model: Engine, adapter: AtWork | None) -> None:
        """Remove the adapter, which the memory manager does not know; the manager itself moves the models."""
        if adapter is not None:
            adapter.park()

    # parts of an evaluation

    @contextmanager
    def at_work(self, evaluation: Evaluation) -> Iterator[None]:
        """Set up one evaluation: the UNet in place, its LoRAs and adapter, and the main model's random numbers."""
        model = evaluation.model
        guidance: AbstractContextManager[None] = nullcontext()
        if model is not self.run.main:
            guidance = self._guided_as_main(model)
            # in case the host has unloaded it during the pass
            if not any(entry.model is model.forge_objects.unet for entry in self.memory.current_loaded_models):
                self._load(evaluation.x.shape)
        with self._same_random_numbers(), evaluation.with_loras(), self._adapted(evaluation), guidance:
            yield

    @contextmanager
    def _guided_as_main(self, model: Engine) -> Iterator[None]:
        with _guided_as_main(self.run, model), self.base.on(model.forge_objects.unet.model_options):
            yield

    def guidance_inputs(
        self, evaluation: Evaluation, shown: torch.Tensor, cond: Any, uncond: Any
    ) -> tuple[Any, CFGDenoiserParams]:
        """Return the arguments of the host's own function for guidance: a stand-in for its denoiser, and the inputs.

        shown: the latent.
        cond, uncond: the texts of this step, which are brought to its device.
        """
        run, state = self.run, shared.state
        inputs = run.sampler.sampler_extra_args["image_cond"], cond, uncond
        image_cond, cond, uncond = (values if values is None else values.to(shown.device) for values in inputs)
        steps = state.sampling_step, state.sampling_steps
        params = CFGDenoiserParams(shown, image_cond, evaluation.sigma, *steps, cond, uncond, run.denoiser)
        return SimpleNamespace(inner_model=SimpleNamespace(inner_model=evaluation.model), p=run.p), params

    def _give_way(self) -> None:
        if self.gives_way:
            give_way(self.memory, self.run.main.forge_objects.unet, self.own_unets)

    def _load(self, shape: torch.Size) -> None:
        """Load the main model's UNet and the co-models', as the host does before a pass. shape: the latent's."""
        main = self.run.main.forge_objects.unet
        batch, *rest = shape
        memory = self.memory_for_pass(
            main.memory_required([2 * batch, *rest]), main.extra_preserved_memory_during_sampling
        )
        self.memory.load_models_gpu([main, *main.extra_model_patchers_during_sampling], **memory)

    def _adapted(self, evaluation: Evaluation) -> AbstractContextManager[None]:
        if evaluation.adapter is None:
            return nullcontext()
        share = progress(self.run.denoiser, evaluation.step)
        return working(evaluation.adapter, unet_of(evaluation.model), lambda: share)

    def _remember_random_numbers(self, denoiser: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.random = torch.get_rng_state(), accelerator.random_state(self.device)

    @contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        """Draw the random numbers of the main model's last evaluation again, and restore the generators afterwards.

        Token merging draws in every evaluation, and Forge the noise on the known part of an inpainting. A co-model that
        is evaluated ahead of the main model draws what that will.
        """
        with accelerator.random_numbers_kept(self.device):
            if self.random is not None and not self.run.is_ahead:
                torch.set_rng_state(self.random[0])
                accelerator.set_random_state(self.device, self.random[1])
            yield
