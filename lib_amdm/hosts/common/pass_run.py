"""One pass of one batch on A1111 or a WebUI derived from it: its co-models, the main model's rules, its end."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from modules import script_callbacks, scripts, shared

from ...comodels.mixing import SlotRun, co_run
from ...comodels.regions import region_map
from ...core.accelerator import is_memory_error
from ...core.arguments import CoRun, Pass
from ...core.levels import as_exploding, as_flow, flow, variance_exploding
from ...core.readings import Stopwatch
from ...core.sampling import NothingMixedError
from ...errors import AmdmError, let_go
from ...settings import MAIN_CHECKPOINT, AdapterSettings, CoModel
from ..protocol import PassOptions, Ran
from ..webui_types import Denoiser, Processing
from . import refusals
from .autoencoders import PassAutoencoder
from .backend import Backend
from .detailer import crop_of
from .kept import Kept
from .memories import Memories
from .slot import SlotModel

logger = logging.getLogger(__name__)

AROUND_EVALUATIONS = ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")
"""The WebUIs' callbacks in the main model's evaluations only."""


def _callbacks() -> Iterator[Callable[..., Any]]:
    for name in AROUND_EVALUATIONS:
        yield from (entry.callback for entry in script_callbacks.callback_map.get(f"callbacks_{name}", ()))


@contextmanager
def _logged(doing: str) -> Iterator[None]:
    """Log errors of the context: by then the pass has its picture, or a more important error."""
    try:
        yield
    except Exception:
        logger.exception("AMDM: %s failed", doing)


class PassRun:
    """One pass of one batch, `hosts.protocol.HostRun`. `backend` makes the host's part of it."""

    def __init__(
        self,
        memory: Kept,
        backend: Callable[[PassRun], Backend],
        p: Processing,
        options: PassOptions,
        hook: Mapping[str, Any],
        sampler: Callable[..., Any],
    ) -> None:
        self.kept, self.p, self.options, self.hook = memory, p, options, hook
        self.sampler, self.crop = p.sampler, crop_of(p)
        parameters = inspect.signature(sampler).parameters
        self.on_timesteps = "timesteps" in parameters
        # UniPC has its own times, between the timesteps
        self.on_whole_timesteps = self.on_timesteps and "is_img2img" not in parameters
        self.main: Any = shared.sd_model
        self.main_file = self.main.sd_checkpoint_info.filename
        self.stopped = self.is_short_of_memory = False
        self.mixed_steps = 0
        self.is_ahead = False
        self.models: list[SlotModel] = []
        self.autoencoders: dict[int, PassAutoencoder] = {}  # by their models' ids
        self.main_model: SlotModel | None = None
        self.end_main_adapter: Callable[[], None] | None = None
        self.memories: Memories | None = None
        self.backend = backend(self)
        device = self.backend.adapters.numbers(self.main)[0]
        self.stopwatch, self.clock, self.pixel_stopwatch = (Stopwatch(device) for _ in range(3))

    # before it

    def adapt_main(self, settings: AdapterSettings) -> None:
        try:
            self.main_model = SlotModel(self, 0, CoModel(checkpoint=MAIN_CHECKPOINT, **vars(settings)))
        finally:
            shared.state.textinfo = None

    def load_co_models(self, slots: Sequence[tuple[int, CoModel]]) -> list[CoRun]:
        backend = self.backend
        size = self.hook["noise"].shape[-2:]
        if self.crop is not None:
            slots = [(number, slot) for number, slot in slots if self._reaches_crop(number, slot, size)]
            if not slots:
                return []
        self._refuse_main(" and ".join(f'"{slot.checkpoint}"' for _, slot in slots))
        try:
            for number, slot in slots:
                self.models.append(SlotModel(self, number, slot))
        finally:
            shared.state.textinfo = None
        further = sum(model.loras.size_in_pass for model in self.models if model.loras and model.device is None)
        backend.evaluator.register([model.model for model in self.models if not model.is_main], further)
        highest = self._highest(self.main)
        # Forge Neo has no such flag
        allows_nan = getattr(shared.cmd_opts, "disable_nan_check", False)
        co_runs = []
        for model in self.models:
            form = as_flow if backend.checkpoints.family(model.model).is_flow else as_exploding
            on_nan = None if allows_nan else model.gave_nan
            highest_own = self._highest(model.model)
            guidance = model.slot.cfg_scale or backend.evaluator.main_cfg_scale
            way = model.crossing()
            run = SlotRun(model.denoise, highest_own, model.state_key, on_nan, form, way, guidance, model.device)
            made = co_run(model.number, model.slot, run, self.seeds, size, highest, crop=self.crop)
            if model.slot.eta != made.eta:
                self.p.comment(f"AMDM: co-model {model.number} has no latent to pull back, so its eta is not used.")
            co_runs.append(made)
        return co_runs

    def _reaches_crop(self, number: int, slot: CoModel, size: tuple[int, int]) -> bool:
        """Return False for a slot whose region is elsewhere in the picture."""
        shares = region_map(slot, *size, f"AMDM co-model {number}", crop=self.crop)
        return shares is None or bool(shares.any())

    def _highest(self, model: Any) -> float:
        """Return a model's highest noise-to-signal ratio."""
        checkpoints = self.backend.checkpoints
        return math.inf if checkpoints.family(model).is_flow else checkpoints.sigma_max(model)

    def _refuse_main(self, others: str) -> None:
        """Raise AmdmError if no co-model can be run with the main model. others: the co-models' names."""
        checkpoints = self.backend.checkpoints
        family, name = checkpoints.family(self.main), self.main.sd_checkpoint_info.name
        if not self.kept.runs_flow_models:
            refusals.refuse_flow(family, name)
        refusals.refuse_main(family, name, others)
        if self.on_timesteps and family.is_flow:
            raise AmdmError(
                f'AMDM: the sampler "{self.p.sampler_name}" uses timesteps, which the main checkpoint "{name}", '
                f"{family}, does not have; choose Euler or another sampler."
            )
        checkpoints.refuse_main(self.main, others)

    def sampled_pass(self) -> Pass:
        x, noise = self.hook["x"], self.hook["noise"]
        return Pass(
            init=None if x is noise else x,
            within=self.within,
            nominal_steps=self.pass_steps,
            guidance=self.backend.evaluator.main_cfg_scale,
            base=self.backend.evaluator.main_base,
            level_of=flow if self.backend.checkpoints.family(self.main).is_flow else variance_exploding,
            still_mixing=self.still_mixing,
            ahead=self.ahead,
            on_mixed=self.note_mixed,
            survives=self.survives,
        )

    # in it

    def start(self) -> None:
        self.clock.start()
        self.backend.evaluator.start()
        main = self.main_model
        if main is not None and main.adapter is not None:
            self.end_main_adapter = self.backend.adapters.on_main(main.adapter, main.count_evaluation)
        if self.models:
            self.memories = Memories(self.backend.extensions.functions, _callbacks)
            self._name_functions_of_classes()

    def _name_functions_of_classes(self) -> None:
        """Name the extensions that act on all models of a kind at once, and have state."""
        for name, function in self.backend.extensions.of_classes():
            self.p.comment(
                f'AMDM: the extension module "{function.__globals__["__name__"]}" replaces {name} of all models at '
                "once; its state is kept apart for each model where that is visible. If the picture looks wrong, "
                "switch that extension off."
            )

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Evaluate co-models before the main model's evaluation of the step, which the host has not counted yet."""
        self.is_ahead = True
        try:
            yield
        finally:
            self.is_ahead = False

    def memory_of(self, slot: SlotModel) -> AbstractContextManager[None]:
        """Give other extensions' functions this slot's state, instead of the main model's, during the context."""
        if self.memories is None or not self.backend.extensions.act_on(slot.model):
            return nullcontext()
        return self.memories.of(slot.number)

    def note_mixed(self, done: int, steps: int) -> None:
        self.mixed_steps = done

    def titles(self) -> dict[int, str]:
        return {model.number: model.title for model in self.models}

    def still_mixing(self) -> bool:
        """Return False once the models must no longer be mixed: the refiner took over, or a co-model failed."""
        if not self.stopped and self._is_refined:
            self.stop("AMDM: the refiner took over in the early steps, so the models were run together only before it.")
        return not self.stopped

    @property
    def _is_refined(self) -> bool:
        return (
            shared.sd_model.sd_checkpoint_info.filename != self.main_file
            or self.backend.checkpoints.main_has_other_weights()
        )

    def stop(self, why: str) -> None:
        self.stopped = True
        self.p.comment(why)

    def failed(self, error: AmdmError) -> None:
        """Raise the error, or note it and go on with the main model alone, by the user's choice."""
        if not self.options.continues_on_error:
            raise error
        self.stop(str(error))

    def out_of_memory(self, error: Exception, error_prefix: str = "AMDM", name: str = "") -> AmdmError:
        """Return the AmdmError for an error of memory, and drop the pass's co-models.

        name: of the model that did not fit; "" if unknown.
        """
        self.is_short_of_memory = True
        let_go(error)
        error.__traceback__ = None
        return refusals.not_enough_memory(error_prefix, name or "the co-models", self.backend.memory_remedy)

    def survives(self, error: Exception) -> bool:
        """Return True if the main model shall go on alone after an error of the co-models, by the user's choice."""
        if isinstance(error, NothingMixedError):
            # the hook reports it under the picture, which is the main model's own
            return True
        worded = self.worded(error)
        if self.is_short_of_memory:
            let_go(error)
            self._make_room()
        if not self.options.continues_on_error or not isinstance(worded, AmdmError):
            return False
        self.stop(str(worded))
        return True

    def worded(self, error: Exception) -> Exception:
        if isinstance(error, AmdmError) or not is_memory_error(error):
            return error
        return self.out_of_memory(error)

    def _make_room(self) -> None:
        """Unload the co-models during the pass."""
        for model in self._all_models:
            model.drop()
        self.backend.evaluator.drop()
        self.kept.unload()

    # after it

    def finish(self, pool_limit: int) -> Ran | None:
        shared.state.textinfo = None
        with _logged("ending the pass"):
            if self.end_main_adapter is not None:
                self.end_main_adapter()
                self.end_main_adapter = None
                if self._is_refined:
                    self.p.comment("AMDM: the refiner took over, so the main model's adapter worked only before it.")
            self.backend.evaluator.finish()
        ran = None
        with _logged("timing the pass"):
            ran = self._ran()
        models = self._all_models
        adapters = {model.adapter.name for model in models if model.adapter}
        for model in models:
            with _logged("making room on the GPU"):
                model.release()
        self.models, self.autoencoders, self.main_model, self.memories = [], {}, None, None
        if self.is_short_of_memory:
            self.kept.unload()
        else:
            self.kept.trim(pool_limit, len(adapters))
        return ran

    def _ran(self) -> Ran | None:
        evaluations = [(model.title, model.evaluations) for model in self.models]
        counts = ", ".join(
            f"co-model {model.number} ({model.title}) {model.evaluations} times" for model in self.models
        )
        logger.debug("AMDM: the pass of %d steps evaluated %s", self.pass_steps, counts or "no co-model")
        if not any(model.evaluations for model in self._all_models):
            return None
        self.clock.stop()
        seconds, calls = self.stopwatch.seconds, sum(autoencoder.calls for autoencoder in self.autoencoders.values())
        vae_seconds = self.pixel_stopwatch.seconds if calls else None
        if seconds is not None and vae_seconds is not None:
            seconds += vae_seconds
        return Ran(self.mixed_steps, self.pass_steps, evaluations, seconds, self.clock.seconds, calls, vae_seconds)

    @property
    def _all_models(self) -> list[SlotModel]:
        return [*self.models, *([self.main_model] if self.main_model else [])]

    # for the backends

    @property
    def denoiser(self) -> Denoiser:
        return self.sampler.model_wrap_cfg

    @property
    def step(self) -> int:
        """The step that is evaluated, by the host's own count, from 0."""
        return self.denoiser.step if self.is_ahead else self.denoiser.step - 1

    @property
    def seeds(self) -> list[int]:
        """The seeds of the batch's images."""
        return self.p.seeds[: len(self.hook["noise"])]

    @property
    def within(self) -> torch.Tensor | None:
        """A map of where an inpainting may change the picture; None: everywhere."""
        return None if self.denoiser.mask is None else self.denoiser.nmask > 0

    @property
    def pass_steps(self) -> int:
        p = self.p
        return (p.hr_second_pass_steps or p.steps) if p.is_hr_pass else p.steps

    def skips_uncond(self, step: int, sigma: torch.Tensor) -> bool:
        """Return True if the host's rules leave out the negative prompt: "skip early CFG" and NGMS.

        sigma: (batch,), read from the GPU only if a rule depends on it.
        """
        opts, denoiser = shared.opts, self.denoiser
        if opts.skip_early_cond != 0 and step / denoiser.total_steps <= opts.skip_early_cond:
            return True
        least = self.sampler.sampler_extra_args["s_min_uncond"]
        return bool((step % 2 or opts.s_min_uncond_all) and least > 0 and sigma[0] < least)

    def masked(self, latent: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Insert the known picture outside the mask of an inpainting, as the host's denoiser does."""
        d = self.denoiser
        if d.mask is None:
            return latent
        device = latent.device
        latent, sigma = latent.to(d.init_latent.device), sigma.to(d.init_latent.device)
        blended = latent * d.nmask + d.init_latent * d.mask
        if self.p.scripts is None:
            return blended.to(device)
        args = scripts.MaskBlendArgs(latent, d.nmask, d.init_latent, d.mask, blended, denoiser=d, sigma=sigma)
        self.p.scripts.on_mask_blend(self.p, args)
        return args.blended_latent.to(device)
