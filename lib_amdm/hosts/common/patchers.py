"""The answers that Forge and its kin have in common: their models are in patchers, which a memory manager moves.

The manager knows the co-models: a copy of the main UNet's patcher names them as what is needed beside it, so that it
plans the GPU's memory for all of them before the pass, and takes from them what it needs afterwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from modules import shared
from modules.script_callbacks import CFGDenoiserParams
from torch.utils.hooks import RemovableHandle

from ...comodels.adapter_use import AtWork
from ...comodels.cache import Loaded
from ...core import accelerator
from ...families import Family
from ...files.state import FileState
from . import refusals
from .backend import Evaluation, SlotLoras
from .memory_managers import MemoryManager
from .pass_run import PassRun
from .patcher_adapters import MainAdapterByCall, working
from .slot import progress
from .strangers import formulas, functions_in, functions_of_classes, functions_on


class PatcherBackend(ABC):
    """`backend.Backend` for one pass, but for what each of them answers in ways of its own."""

    memory: MemoryManager

    @property
    @abstractmethod
    def memory_remedy(self) -> str: ...

    nan_remedy: str
    unet_is_final_in_pass = True
    """Only in the pass have the UNet's weights the main prompt's LoRAs in them, and are where they are used."""
    runs_flow_models = False

    def __init__(self, run: PassRun) -> None:
        self.run = run
        self.own_unets: list[Any] = []
        self.registered_at: Any = None
        self.watch: RemovableHandle | None = None
        self.device = torch.device("cpu")
        self.random: tuple[torch.Tensor, torch.Tensor | None] | None = None
        """The states of the generators of the CPU and of the device."""

    # a checkpoint

    def refuse_main(self, others: str) -> None:
        family, name = self.family(self.run.main), self.run.main.sd_checkpoint_info.name
        if not self.runs_flow_models:
            refusals.refuse_flow(family, name)
        refusals.refuse_main(family, name, others)

    @abstractmethod
    def family(self, model: Any) -> Family: ...

    @abstractmethod
    def variant(self) -> tuple[Any, ...]: ...

    @abstractmethod
    def load(self, info: Any, slot: int) -> Loaded: ...

    def model_of(self, loaded: Any) -> Any:
        return loaded.engine

    def prepare(self, loaded: Any) -> None:
        loaded.prepare(self.run.p, self.run.main)

    @abstractmethod
    def sigma_max(self, model: Any) -> float: ...

    def main_has_other_weights(self) -> bool:
        return False

    # its texts

    @abstractmethod
    def encoding(self, model: Any) -> AbstractContextManager[None]: ...

    def text_arguments(self) -> dict[str, Any]:
        return {}

    def parser_options(self) -> tuple[Any, ...]:
        return (shared.opts.use_old_scheduling,)

    @abstractmethod
    def host_text_options(self) -> tuple[Any, ...]:
        """The host's options that decide how a text is encoded."""

    def text_options(self, model: Any) -> tuple[Any, ...]:
        options = self.host_text_options()
        if model is not self.run.main:
            return options
        file = FileState.of_loaded(model.sd_checkpoint_info.filename)
        return (*options, model.current_lora_hash, *self.variant(), file)

    def needs_negative(self, cfg_scale: float) -> bool:
        return True

    @abstractmethod
    def loras(self, model: Any, named: Sequence[Any], error_prefix: str) -> SlotLoras: ...

    # adapters

    def unet(self, model: Any) -> torch.nn.Module:
        return model.forge_objects.unet.model.diffusion_model

    @abstractmethod
    def phrase_encoder(self, model: Any) -> tuple[Any, torch.nn.Module] | None: ...

    def phrase_device(self, model: Any) -> torch.device:
        encoder = self.phrase_encoder(model)
        assert encoder is not None
        return next(encoder[1].parameters()).device

    @abstractmethod
    def adapter_numbers(self, model: Any) -> tuple[torch.device, torch.dtype]: ...

    @property
    def image_dtype(self) -> torch.dtype:
        device = self.memory.get_torch_device()
        half = device.type != "cpu" and self.memory.should_use_fp16(device, prioritize_performance=False)
        return torch.float16 if half else torch.float32

    def make_room(self, size: int) -> None:
        device = self.memory.get_torch_device()
        if device.type != "cpu":
            self.memory.free_memory(size, device)

    def main_adapter(self, adapter: AtWork, evaluated: Callable[[], None]) -> MainAdapterByCall:
        return MainAdapterByCall(self.run.denoiser, adapter, self.unet(self.run.main), evaluated)

    # other extensions

    def foreign_functions(self) -> list[Any]:
        unet = self.run.main.forge_objects.unet
        of_classes = (function for _, function in self.functions_of_classes())
        return [*functions_in(unet.model_options), *functions_on(unet.model.modules()), *of_classes]

    def functions_of_classes(self) -> list[tuple[str, FunctionType]]:
        return list(functions_of_classes(self.run.main.forge_objects.unet.model.modules()))

    def has_foreign_functions(self, model: Any) -> bool:
        return model is self.run.main or bool(self._formulas(model)) or bool(self.functions_of_classes())

    def _formulas(self, model: Any) -> dict[str, Any]:
        """The guidance that the main model has now, as far as it can be a co-model's too."""
        return formulas(self.run.main.forge_objects.unet.model_options, model.forge_objects.unet)

    @contextmanager
    def _guided_as_main(self, model: Any) -> Iterator[None]:
        """A context in which a co-model has the main model's guidance, by whatever functions other extensions set."""
        options, given = model.forge_objects.unet.model_options, self._formulas(model)
        kept = {name: options[name] for name in given if name in options}
        options.update(given)
        try:
            yield
        finally:
            for name in given:
                del options[name]
            options.update(kept)

    # the pass

    def register(self, co_models: Sequence[Any], further: int) -> None:
        own = {id(model.forge_objects.unet): model.forge_objects.unet for model in co_models}
        self.own_unets = [*own.values()]
        if own or further:
            # the host puts the main model's own patcher back before every pass
            main = self.run.main.forge_objects
            self.registered_at = main.unet = main.unet.clone()
            self.registered_at.extra_preserved_memory_during_sampling += further
            for unet in self.own_unets:
                self.registered_at.add_extra_model_patcher_during_sampling(unet)
        if own:
            # as the host does next, but here what goes wrong can be said in words
            self._load(self.run.hook["x"].shape)

    def start(self) -> None:
        self.watch = self.run.denoiser.register_forward_pre_hook(self._remember_random_numbers)

    def finish(self) -> None:
        if self.watch is not None:
            self.watch.remove()
        self.drop()

    def drop(self) -> None:
        # other extensions may have copied the patcher, and its list with it; a refiner may have replaced all of it
        now = getattr(getattr(self.run.main, "forge_objects", None), "unet", None)
        for patcher in (self.registered_at, now):
            if patcher is not None:
                needed = patcher.extra_model_patchers_during_sampling
                needed[:] = [each for each in needed if not any(each is unet for unet in self.own_unets)]
        self.registered_at, self.own_unets = None, []

    def cond_scale(self, cfg_scale: float) -> float:
        p = self.run.p
        return cfg_scale or (p.hr_cfg if p.is_hr_pass else p.cfg_scale)

    @abstractmethod
    def denoised(self, evaluation: Evaluation) -> torch.Tensor: ...

    def park(self, model: Any, adapter: AtWork | None) -> None:
        """Take the adapter off, of which the memory manager does not know; it takes the models that it needs to."""
        if adapter is not None:
            adapter.park()

    def memory_for_pass(self, sampling: float, further: float) -> dict[str, float]:
        """The host's own arguments, when it loads a pass's models, for the bytes of an evaluation and further ones."""
        return {"memory_required": sampling + further}

    # parts of an evaluation

    @contextmanager
    def at_work(self, evaluation: Evaluation) -> Iterator[None]:
        """A context for one evaluation: the UNet is where it is evaluated, its LoRAs and adapter work, and random
        numbers are those of the main model's last evaluation."""
        if evaluation.model is not self.run.main:
            self._bring(evaluation.model.forge_objects.unet, evaluation.x.shape)
        guided = nullcontext() if evaluation.model is self.run.main else self._guided_as_main(evaluation.model)
        with self._same_random_numbers(), evaluation.with_loras(), self._adapted(evaluation), guided:
            yield

    def _bring(self, unet: Any, shape: torch.Size) -> None:
        """Load a co-model's UNet, should the host have sent it away in the middle of the pass."""
        if not any(entry.model is unet for entry in self.memory.current_loaded_models):
            self._load(shape)

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
        return working(evaluation.adapter, self.unet(evaluation.model), lambda: share)

    def guidance_inputs(
        self, evaluation: Evaluation, shown: torch.Tensor, cond: Any, uncond: Any
    ) -> tuple[Any, CFGDenoiserParams]:
        """The arguments of the host's own function for guidance: a denoiser's stand-in with this model, and the inputs.

        shown: the latent. cond, uncond: the texts that hold in this step.
        """
        run, state = self.run, shared.state
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        steps = state.sampling_step, state.sampling_steps
        params = CFGDenoiserParams(shown, image_cond, evaluation.sigma, *steps, cond, uncond, run.denoiser)
        return SimpleNamespace(inner_model=SimpleNamespace(inner_model=evaluation.model), p=run.p), params

    def _remember_random_numbers(self, denoiser: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.device = args[0].device
        self.random = torch.get_rng_state(), accelerator.random_state(self.device)

    @contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        """Draw from the process's generators what the main model's last evaluation drew, and leave them as they are.

        Token merging draws in every evaluation, and Forge the noise on the known part of an inpainting.
        """
        with accelerator.random_numbers_kept(self.device):
            if self.random is not None:
                torch.set_rng_state(self.random[0])
                accelerator.set_random_state(self.device, self.random[1])
            yield
