"""What Forge and reForge have in common: models in patchers, which a memory manager moves.

The manager knows the co-models: a copy of the main UNet's patcher names them as what is needed beside it, so that it
plans the GPU's memory for all of them before the pass, and takes from them what it needs afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from modules import shared
from modules.script_callbacks import CFGDenoiserParams
from torch.utils.hooks import RemovableHandle

from ...comodels.cache import FileState
from ...comodels.weight_swap import changed
from ...sampling import CoRun
from ...settings import CoModel
from .adapters import OnSelfTellingMain, working
from .pass_run import WebUIRun
from .slot import SlotModel, progress


class PatcherRun(WebUIRun):
    """One pass of one batch on a WebUI whose models are in patchers."""

    memory: ModuleType
    """The host's memory manager."""

    registered_at: Any = None
    watch: RemovableHandle | None = None
    device: torch.device
    random: tuple[torch.Tensor, torch.Tensor | None]

    def load_co_models(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        runs = super().load_co_models(slots)
        own = {id(model.unet): model.unet for model in self.models if not model.is_main}
        if own:
            # the host puts the main model's own patcher back before every pass
            self.registered_at = self.main.forge_objects.unet = self.main.forge_objects.unet.clone()
            for unet in own.values():
                self.registered_at.add_extra_model_patcher_during_sampling(unet)
        return runs

    def adapter_on_main(self, model: PatcherSlotModel) -> OnSelfTellingMain:
        return OnSelfTellingMain(self.denoiser, model, model.network)

    def start(self) -> None:
        super().start()
        self.watch = self.denoiser.register_forward_pre_hook(self._remember_random_numbers)

    def _remember_random_numbers(self, denoiser: torch.nn.Module, args: tuple[Any, ...]) -> None:
        self.device = args[0].device
        self.random = torch.get_rng_state(), self._accelerator and self._accelerator.get_rng_state(self.device)

    @property
    def _accelerator(self) -> ModuleType | None:
        return getattr(torch, self.device.type) if self.device.type in ("cuda", "xpu") else None

    @contextmanager
    def mains_random_numbers(self) -> Iterator[None]:
        """Draw from the process's generators what the main model's last evaluation drew, and leave them as they are.

        Token merging draws in every evaluation, and Forge the noise on the known part of an inpainting.
        """
        kind = {"device_type": self.device.type} if self._accelerator else {}
        with torch.random.fork_rng(devices=[self.device] if self._accelerator else [], **kind):
            torch.set_rng_state(self.random[0])
            if self._accelerator:
                self._accelerator.set_rng_state(self.random[1], self.device)
            yield

    def finish(self, pool_limit: int) -> bool:
        if self.watch is not None:
            self.watch.remove()
        self._unregister()
        return super().finish(pool_limit)

    def _unregister(self) -> None:
        own = [model.unet for model in self.models if not model.is_main]
        # other extensions may have copied the patcher, and its list with it; a refiner may have replaced all of it
        now = getattr(getattr(self.main, "forge_objects", None), "unet", None)
        for patcher in (self.registered_at, now):
            if patcher is not None:
                needed = patcher.extra_model_patchers_during_sampling
                needed[:] = [each for each in needed if not any(each is unet for unet in own)]
        self.registered_at = None

    @property
    def cond_scale(self) -> float:
        return self.p.hr_cfg if self.p.is_hr_pass else self.p.cfg_scale

    def bring(self, unet: Any, shape: torch.Size) -> None:
        """Have a co-model's UNet where it is evaluated, should the host have sent it away in the middle of the pass."""
        if any(entry.model is unet for entry in self.memory.current_loaded_models):
            return
        main = self.main.forge_objects.unet
        batch, *rest = shape
        needed = unet.memory_required([2 * batch, *rest])
        self.memory.load_models_gpu([main, *main.extra_model_patchers_during_sampling], memory_required=needed)


class PatcherSlotModel(SlotModel):
    """A checkpoint's models in patchers, loaded outside the host's own place for them, or the main ones."""

    models: ModuleType
    """How the host's models are loaded and told apart."""

    def _load(self) -> None:
        run, models = self.run, self.models
        load = partial(models.load, self.info, run.main, self.number)
        kept = run.host.pool.get(self.info.filename, models.variant(), load)
        # the family is checked again because the kept one may have been loaded beside another main model
        models.refuse_stranger(models.family_of(kept.model.engine), self.info, run.main, self.number)
        kept.model.prepare(run.p, run.main)
        self.model, self.texts = kept.model.engine, kept.texts

    def _text_options(self) -> tuple[Any, ...]:
        """The host's options that decide how a text is encoded."""
        raise NotImplementedError

    def _dialect(self) -> tuple[Any, ...]:
        options = self._text_options()
        if not self.is_main:
            return options
        return (*options, self.model.current_lora_hash, *self.models.variant(), FileState.of(self.info.filename))

    def _apply_lora(self) -> None:
        """Only in the pass have the UNet's weights the main prompt's LoRAs in them, and are where they are used."""

    @property
    def unet(self) -> Any:
        """The UNet's patcher, with everything that was attached to it."""
        return self.model.forge_objects.unet

    @property
    def network(self) -> torch.nn.Module:
        """The UNet itself."""
        return self.unet.model.diffusion_model

    @contextmanager
    def at_work(self, step: int) -> Iterator[None]:
        """Around an evaluation: the slot's LoRAs and its adapter work in it."""
        if self.lora and not self.changes:
            self.changes = self.lora.of_unet()
        with changed(self.changes), self._adapted(step):
            yield

    def _adapted(self, step: int) -> AbstractContextManager[None]:
        if self.adapter is None:
            return nullcontext()
        share = progress(self.run.denoiser, step)
        return working(self.adapter, self.network, lambda: share)

    def asked(self, shown: torch.Tensor, sigma: torch.Tensor, cond: Any, uncond: Any) -> tuple[Any, CFGDenoiserParams]:
        """What the host's own function for guidance takes: a denoiser's stand-in with this model, and the inputs."""
        run, state = self.run, shared.state
        image_cond = run.sampler.sampler_extra_args["image_cond"]
        told = CFGDenoiserParams(
            shown, image_cond, sigma, state.sampling_step, state.sampling_steps, cond, uncond, run.denoiser
        )
        return SimpleNamespace(inner_model=SimpleNamespace(inner_model=self.model), p=run.p), told
