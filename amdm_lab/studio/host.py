"""The host without a WebUI: SD1-format checkpoints with diffusers, sampled by k-diffusion, with co-models.

    host = Standalone(Path("models"))
    job = Job("shapes", prompts=["a cross"], seeds=[1], steps=20)
    result = host.generate(job, Settings.from_dict({"enabled": True, "co_models": [{"checkpoint": "colours"}]}))

Prompts are read as in `prompts`. There is one pass, so `pass` = hires runs no co-model.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib_amdm.adapters.base import AdapterInfo
from lib_amdm.comodels.adapter_use import Adapters, AtWork, Place, SlotInputs, as_amdm_error
from lib_amdm.comodels.cache import InMemory, Loaded, Pool
from lib_amdm.comodels.file_list import FileList, Folder, lists
from lib_amdm.comodels.mixing import SlotRun, co_run, mixed
from lib_amdm.comodels.pixels import co_size, crossing
from lib_amdm.comodels.placing import device_of, one_device
from lib_amdm.comodels.prompts import prompt_of
from lib_amdm.core.aggregation import Mix
from lib_amdm.core.arguments import ONE_SPACE, CoRun, Crossing, Pass, Prediction
from lib_amdm.errors import AmdmError
from lib_amdm.families import Family
from lib_amdm.files.checkpoint_family import family_in
from lib_amdm.files.state import ByState, FileState
from lib_amdm.settings import MAIN_CHECKPOINT, THROUGH_PIXELS, AdapterSettings, CoModel, Settings

from . import sampling
from .batch_inputs import BatchInputs
from .checkpoint_file import SUFFIXES, CheckpointFile
from .model import LATENT_SCALE, Autoencoder, GuidedDenoiser, StandaloneModel
from .sampling import ImageNoise, Interrupted, noise, sampler_names

__all__ = [
    "Autoencoder",
    "GuidedDenoiser",
    "Interrupted",
    "Job",
    "Result",
    "Standalone",
    "StandaloneModel",
    "noise",
    "sampler_names",
]

MOST_SEED = 2**64 - 1
"""The largest that torch takes; the Brownian paths of the SDE samplers take nothing below 0."""
_RANDOM_SEEDS = 2**32


@dataclass(frozen=True)
class Job:
    """A batch of pictures."""

    checkpoint: str
    """A name from the host's list."""
    prompts: Sequence[str]
    """One for each picture."""
    seeds: Sequence[int]
    """One for each picture; -1 is a random seed."""
    negative_prompts: Sequence[str] | str = ""
    """One for each picture, or one text for all."""
    sampler: str = "euler"
    """One of `sampler_names()`."""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 128
    """In pixels."""
    height: int = 128
    schedule: str = "automatic"
    """"automatic" (as the WebUI's), "karras" or "exponential"."""

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a picture's latent."""
        return self.height // LATENT_SCALE, self.width // LATENT_SCALE

    @property
    def negatives(self) -> list[str]:
        texts = self.negative_prompts
        return [texts] * len(self.prompts) if isinstance(texts, str) else list(texts)

    def check(self) -> None:
        """Raise AmdmError for what does not fit."""
        counts = {"prompts": len(self.prompts), "seeds": len(self.seeds), "negative prompts": len(self.negatives)}
        if not self.prompts or len(set(counts.values())) > 1:
            numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise AmdmError(f"AMDM: a batch needs one prompt and one seed for each picture, but it has {numbers}.")
        odd = [seed for seed in self.seeds if not isinstance(seed, Integral) or not -1 <= seed <= MOST_SEED]
        if odd:
            raise AmdmError(
                f"AMDM: a seed must be a whole number from 0 to {MOST_SEED}, or -1 for a random one, not {odd[0]}."
            )
        if self.steps < 1:
            raise AmdmError(f"AMDM: a picture needs at least one sampling step, not {self.steps}.")
        for name, size in (("width", self.width), ("height", self.height)):
            if size < LATENT_SCALE or size % LATENT_SCALE:
                raise AmdmError(f"AMDM: the {name} must be a multiple of {LATENT_SCALE}, not {size}.")

    def with_its_seeds(self) -> Job:
        """Return the same batch with a seed instead of each -1."""
        return replace(self, seeds=[secrets.randbelow(_RANDOM_SEEDS) if s == -1 else int(s) for s in self.seeds])


@dataclass(frozen=True)
class Variant:
    """A change of the method that no setting makes, for comparisons.

    mix: the rule in place of slerp.
    correction: one of `aggregation.CORRECTIONS` in place of the settings' own.
    denoiser: makes the denoiser that a model is sampled with.
    """

    mix: Mix | str = "slerp"
    correction: str = ""
    denoiser: Callable[[GuidedDenoiser], Any] = lambda denoiser: denoiser


UNCHANGED = Variant()


@dataclass(kw_only=True)
class Latents:
    """A job's pictures before they are decoded."""

    latents: Tensor
    """(images, channels, h, w), float32, on the CPU."""
    seeds: list[int]
    """The seed of each picture, also if it was chosen at random."""
    evaluations: int
    """Evaluations of the main model."""
    co_evaluations: list[int]
    """Evaluations of each slot of the settings; 0 if it did not run."""
    comments: list[str]
    """Notes on the run for the user."""


@dataclass(kw_only=True)
class Result(Latents):
    """A job's pictures."""

    pictures: np.ndarray
    """uint8 (images, height, width, 3)."""
    seconds: float
    """For all of it, loading included."""


class Standalone:
    """The checkpoints of some folders, and what is loaded of them.

    Several threads may use it. One batch is drawn at a time, because an adapter is attached to a network while it is
    evaluated, and other batches may use that network.
    """

    name = "standalone"
    runs_flow_models = True

    def __init__(
        self,
        folders: Sequence[Path] | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        most_loaded: int = 4,
        adapter_folders: Sequence[Path] = (),
    ) -> None:
        """Read the lists of files.

        folders: of checkpoints.
        device, dtype: where, and in which precision, the models run.
        most_loaded: how many checkpoints, and how many adapters, stay loaded between pictures, if the last picture did
            not need more.
        adapter_folders: of adapters and image encoders.
        """
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        self.device, self.dtype, self.most_loaded = torch.device(device), dtype, most_loaded
        self.pool, self.autoencoders = Pool(), Pool()
        folders_of_adapters = [Folder(folder, takes_all=True) for folder in adapter_folders]
        self.families = ByState(family_in)
        self.adapters = Adapters(*lists(lambda: folders_of_adapters, lambda: folders_of_adapters))
        self._drawing = threading.RLock()
        self.files = FileList(
            lambda: [Folder(folder) for folder in self.folders], lambda file, takes_all: file.suffix.lower() in SUFFIXES
        )
        self.refresh_checkpoints()

    # the list

    def refresh_checkpoints(self) -> None:
        self.files.refresh()

    def checkpoint_titles(self) -> list[str]:
        return self.files.titles()

    def checkpoint_title(self, name: str) -> str | None:
        return self.files.title(name)

    def checkpoint_family(self, name: str) -> Family | None:
        path = self.files.path(name)
        return self.families.of(path) if path else None

    def main_checkpoint(self) -> str:
        """Return "": each batch of pictures names its own."""
        return ""

    def adapter_titles(self) -> list[str]:
        return self.adapters.files.titles()

    def adapter_title(self, name: str) -> str | None:
        return self.adapters.files.title(name)

    def adapter_info(self, name: str) -> AdapterInfo | None:
        return self.adapters.info(name)

    def refresh_adapters(self) -> None:
        self.adapters.refresh()

    def _file(self, name: str, error_prefix: str) -> CheckpointFile:
        title = self.checkpoint_title(name)
        if title is None:
            listed = ", ".join(self.files.titles()) or "empty"
            raise AmdmError(
                f'{error_prefix}: "{name}" is not in the list of checkpoints ({listed}); choose one from it.'
            )
        path = self.files.files[title]
        if not path.is_file():
            raise AmdmError(
                f'{error_prefix}: "{title}" is not in its folder any more; refresh the list of checkpoints.'
            )
        return CheckpointFile(path, title, error_prefix)

    # what is loaded

    def load(self, name: str, error_prefix: str = "AMDM") -> Loaded:
        """Return the checkpoint's StandaloneModel, from the pool if it is there. error_prefix: begins its errors."""
        file = self._file(name, error_prefix)

        def read() -> Loaded:
            model = StandaloneModel(file, self.device, self.dtype)
            return Loaded(file.title, model, model.texts)

        return self.pool.get(str(file.path), self._variant(file, self.dtype), read)

    def model(self, name: str, error_prefix: str = "AMDM") -> StandaloneModel:
        """Return the checkpoint's model: see `load`."""
        model = self.load(name, error_prefix).model
        assert isinstance(model, StandaloneModel)
        return model

    def autoencoder(self, name: str) -> Autoencoder:
        """Return the checkpoint's VAE, in float32: in half precision some overflow."""
        file = self._file(name, "AMDM")

        def read() -> Loaded:
            return Loaded(file.title, Autoencoder(*file.autoencoder(torch.float32), file.offset).to(self.device))

        autoencoder = self.autoencoders.get(str(file.path), self._variant(file, torch.float32), read).model
        assert isinstance(autoencoder, Autoencoder)
        return autoencoder

    def _variant(self, file: CheckpointFile, dtype: torch.dtype) -> tuple[Any, ...]:
        described = FileState.of(str(file.yaml)) if file.yaml.is_file() else None
        return (dtype, str(self.device), described)

    def loaded(self) -> list[InMemory]:
        return self.pool.listing() + self.adapters.listing()

    def unload(self) -> list[InMemory]:
        with self._drawing:
            self.autoencoders.unload()
            return self.pool.unload() + self.adapters.unload()

    def adapter_on(
        self, model: StandaloneModel, settings: Sequence[AdapterSettings], seeds: Sequence[int], slot: int
    ) -> AtWork | None:
        """Return the adapter of a slot, or of the main model (slot 0), ready to work on the model's UNet.

        settings: for each picture; they differ in layouts and pictures alone. None if they use no adapter.
        """
        first = settings[0]
        if not first.used:
            return None
        error_prefix, panel_label = (
            (f"AMDM co-model {slot}", f"co-model {slot}") if slot else ("AMDM", "the main adapter")
        )
        place = Place(model.unet, Family("SD1"), model, seeds, self.device, self.dtype, error_prefix, panel_label)
        if all(other == first for other in settings):
            return self.adapters.prepare(first, place)
        with as_amdm_error(error_prefix):
            adapter = self.adapters.adapter(first.adapter, place)
            inputs = [SlotInputs(adapter.name, of_picture, place, self.adapters.images) for of_picture in settings]
            return AtWork(adapter.prepare(BatchInputs(inputs)))

    # a picture

    def generate(
        self,
        job: Job,
        settings: Settings | None = None,
        progress: Callable[[int, int], None] | None = None,
        keep_drawing: Callable[[], bool] | None = None,
    ) -> Result:
        """Draw the batch, with the co-models of `settings` if they are switched on.

        progress: called with the number of each sampling step and of all.
        keep_drawing: called in each step; Interrupted is raised once it returns False.

        AmdmError says in one sentence what is wrong.
        """
        job.check()
        began = time.perf_counter()
        with self._drawing, self._enough_memory(job):
            self.model(job.checkpoint)
            # a checkpoint without a VAE is refused before anything is drawn
            autoencoder = self.autoencoder(job.checkpoint)
            drawn = self.latents(job, settings or Settings(), UNCHANGED, progress, keep_drawing)
            pictures = _bytes(autoencoder.decode(drawn.latents.to(self.device)))
            self.autoencoders.trim(self.most_loaded)
        return Result(**vars(drawn), pictures=pictures, seconds=time.perf_counter() - began)

    def latents(
        self,
        job: Job,
        settings: Settings | Sequence[Settings],
        variant: Variant = UNCHANGED,
        progress: Callable[[int, int], None] | None = None,
        keep_drawing: Callable[[], bool] | None = None,
    ) -> Latents:
        """Draw the batch as `generate` does, without decoding it.

        settings: for all pictures, or for each; then they differ in texts, layouts and reference pictures alone.
        variant: a change of the method.
        progress, keep_drawing: see `generate`.
        """
        job.check()
        job = job.with_its_seeds()
        every = [settings] * len(job.prompts) if isinstance(settings, Settings) else settings
        with self._drawing, self._enough_memory(job), torch.no_grad():
            return self._sampled(job, every, variant, _reporter(job.steps, progress, keep_drawing))

    @contextmanager
    def _enough_memory(self, job: Job) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError as error:
            self.unload()
            raise AmdmError(
                f'AMDM: there is not enough GPU memory for "{job.checkpoint}" and its co-models; use fewer of '
                "them, a smaller picture, or the CPU."
            ) from error

    def _sampled(
        self, job: Job, every: Sequence[Settings], variant: Variant, report: Callable[[dict[str, Any]], None]
    ) -> Latents:
        settings = replace(every[0], correction=variant.correction or every[0].correction)
        comments = []
        slots = settings.active if settings.mixes else ()
        if slots and settings.which_pass in ("hires", "detailer"):
            comments.append(
                f'AMDM: "pass" is set to {settings.which_pass}, but there is one pass here, so no co-model was run.'
            )
            slots = ()
        func = sampling.find_sampler(job.sampler)
        model = self.model(job.checkpoint)
        sigmas = sampling.noise_levels(model, job.sampler, job.schedule, job.steps)
        main_adapters = [of_picture.main_adapter for of_picture in every]
        main_adapter = self.adapter_on(model, main_adapters, job.seeds, 0) if settings.enabled else None
        progress = sampling.progress([model.level(sigma).ratio for sigma in sigmas.tolist()])
        denoiser = variant.denoiser(
            model.denoiser(job.prompts, job.negatives, job.cfg_scale, adapter=main_adapter, progress=progress)
        )
        co_models = {
            number: _SlotModel(self, job, number, [of.co_models[number - 1] for of in every], variant, progress)
            for number, _ in slots
        }
        if co_models:
            co_runs = [co_model.co_run(job) for co_model in co_models.values()]
            in_pass = Pass(
                nominal_steps=job.steps,
                guidance=job.cfg_scale,
                base=lambda: getattr(denoiser, "base", None),
                level_of=model.level,
            )
            func = mixed(func, settings, co_runs, in_pass, variant.mix)
        stream = ImageNoise(job.seeds, (model.latent_channels, *job.latent_size))
        latents = sampling.sample(func, denoiser, stream, sigmas, report)
        self.pool.trim(max(self.most_loaded, 1 + len(co_models)))
        adapters = {at_work.name for at_work in (main_adapter, *(of.adapter for of in co_models.values())) if at_work}
        self.adapters.trim(self.most_loaded, len(adapters))
        numbers = range(1, len(settings.co_models) + 1)
        return Latents(
            latents=latents.float().cpu(),
            seeds=list(job.seeds),
            evaluations=denoiser.evaluations,
            co_evaluations=[co_models[n].denoiser.evaluations if n in co_models else 0 for n in numbers],
            comments=comments,
        )

    # what the panel needs

    def input_accordion(self, value: bool, label: str, elem_id: str) -> AbstractContextManager:
        from . import page

        return page.input_accordion(value, label, elem_id)

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any:
        from . import page

        return page.refresh_button(component, refresh, choices, elem_id)

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any:
        """Make a button; gradio's have no tooltip."""
        from . import page

        return page.tool_button(text, elem_id)

    token_count = None
    """Without a WebUI there is no counter."""

    def option(self, name: str) -> Any:
        """Raise KeyError: without a settings page, AMDM's options are at their defaults."""
        raise KeyError(name)


class _SlotModel:
    """One slot's model for one batch: loaded, its texts encoded, ready to denoise. slots: its settings by picture."""

    def __init__(
        self,
        host: Standalone,
        job: Job,
        number: int,
        slots: Sequence[CoModel],
        variant: Variant,
        progress: Callable[[float], float],
    ) -> None:
        self.number, self.slot, self.progress = number, slots[0], progress
        self.main = host.model(job.checkpoint)
        self.error_prefix = f"AMDM co-model {number}"
        device_of(number, self.slot, host.device, one_device)
        checkpoint = job.checkpoint if self.slot.checkpoint == MAIN_CHECKPOINT else self.slot.checkpoint
        self.model = host.model(checkpoint, self.error_prefix)
        self.crossing = self._crossing(host, job.checkpoint, checkpoint)
        self.adapter = host.adapter_on(self.model, [slot.adapter_settings for slot in slots], job.seeds, number)
        self.denoiser = variant.denoiser(
            self.model.denoiser(
                [prompt_of(slot.prompt, prompt) for slot, prompt in zip(slots, job.prompts)],
                [prompt_of(slot.negative_prompt, negative) for slot, negative in zip(slots, job.negatives)],
                self.slot.cfg_scale or job.cfg_scale,
                self.error_prefix,
                self.adapter,
                progress,
            )
        )

    def co_run(self, job: Job) -> CoRun:
        state_key = self.state_key if self.adapter else None
        form, guidance = self.model.form, self.slot.cfg_scale or job.cfg_scale
        run = SlotRun(self.denoise, self.model.highest, state_key, self.refuse_nan, form, self.crossing, guidance)
        return co_run(self.number, self.slot, run, job.seeds, job.latent_size, self.main.highest)

    def denoise(self, x: Tensor, sigma: Tensor) -> Prediction:
        """Return its prediction with its prompt and without, for `CoRun.denoise`."""
        denoised = self.denoiser(x, sigma)
        return Prediction(denoised, getattr(self.denoiser, "base", None))

    def _crossing(self, host: Standalone, main: str, co: str) -> Crossing:
        """Return the way between the main checkpoint's latents and this one's."""
        family, of_main = host.checkpoint_family(co), host.checkpoint_family(main)
        is_foreign = family is not None and of_main is not None and family.crosses(of_main)
        if not is_foreign and self.slot.noise != THROUGH_PIXELS:
            return ONE_SPACE
        coder = _Unclamped(host.autoencoder(main))
        own_coder = _Unclamped(host.autoencoder(co)) if is_foreign else coder
        # a family's native size is that of its published checkpoints, not of the small ones that are run here
        return crossing(coder, own_coder, partial(co_size, self.slot.size, None))

    def state_key(self, ratio: float) -> bool:
        """Return True if the slot's adapter works at a noise-to-signal ratio."""
        return self.progress(ratio) < self.slot.until

    def refuse_nan(self) -> None:
        """Raise AmdmError: an evaluation's answer was not finite (`CoRun.on_nan`)."""
        raise AmdmError(
            f'{self.error_prefix}: "{self.model.title}" gave NaN; choose another checkpoint, or run in float32.'
        )


class _Unclamped(NamedTuple):
    """An autoencoder between two models, a `comodels.pixels.PictureCoder`."""

    autoencoder: Autoencoder

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents, clamp=False)

    def encode(self, pictures: Tensor) -> Tensor:
        return self.autoencoder.encode(pictures)


def _reporter(
    steps: int, progress: Callable[[int, int], None] | None, keep_drawing: Callable[[], bool] | None
) -> Callable[[dict[str, Any]], None]:
    """Return the function for k-diffusion to call in each step; DPM adaptive may take more steps than ordered."""

    def report(state: dict[str, Any]) -> None:
        if keep_drawing is not None and not keep_drawing():
            raise Interrupted
        if progress is not None:
            progress(min(state["i"] + 1, steps), steps)

    return report


def _bytes(pictures: Tensor) -> np.ndarray:
    """Turn pictures (batch, 3, h, w) from 0 to 1 into bytes (batch, h, w, 3), rounded down as the WebUI does."""
    return (pictures.permute(0, 2, 3, 1) * 255).to(torch.uint8).cpu().numpy()
