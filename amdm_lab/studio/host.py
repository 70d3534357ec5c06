"""No WebUI: SD1-format checkpoints with diffusers and transformers, sampled by k-diffusion, co-models beside them.

    host = Standalone(Path("models"))
    job = Job("shapes", prompts=["a cross"], seeds=[1], steps=20)
    result = host.generate(job, Settings.from_dict({"enabled": True, "co_models": [{"checkpoint": "colours"}]}))

Prompts are read as in `prompts`. Pictures are made in one pass: `pass` = hires runs no co-model.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib_amdm.adapters.base import AdapterInfo
from lib_amdm.comodels.adapter_use import Adapters, AtWork, Place
from lib_amdm.comodels.cache import InMemory, Loaded, Pool
from lib_amdm.comodels.file_list import Folder, files_in, find_title, lists, readable
from lib_amdm.comodels.mixing import SlotRun, co_run, mixed
from lib_amdm.core.arguments import CoRun, Pass
from lib_amdm.errors import AmdmError
from lib_amdm.families import Family
from lib_amdm.files.checkpoint_family import family_in
from lib_amdm.files.state import ByState, FileState
from lib_amdm.settings import MAIN_CHECKPOINT, AdapterSettings, CoModel, Settings

from . import sampling
from .checkpoint_file import SUFFIXES, CheckpointFile
from .model import LATENT_CHANNELS, LATENT_SCALE, Autoencoder, Denoiser, StandaloneModel
from .sampling import ImageNoise, Interrupted, noise, sampler_names

__all__ = [
    "Autoencoder",
    "Denoiser",
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
    """A batch of pictures. checkpoint: a name from the host's list. prompts and seeds: one for each picture, and -1 is
    a random seed.

    negative_prompts: one for each, or one text for all. sampler: one of `sampler_names()`. schedule: "automatic" (as
    the WebUI's), "karras" or "exponential". width and height in pixels.
    """

    checkpoint: str
    prompts: Sequence[str]
    seeds: Sequence[int]
    negative_prompts: Sequence[str] | str = ""
    sampler: str = "euler"
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 128
    height: int = 128
    schedule: str = "automatic"

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a picture's latent."""
        return self.height // LATENT_SCALE, self.width // LATENT_SCALE

    @property
    def negatives(self) -> list[str]:
        given = self.negative_prompts
        return [given] * len(self.prompts) if isinstance(given, str) else list(given)

    def check(self) -> None:
        """AmdmError names what does not fit."""
        counts = {"prompts": len(self.prompts), "seeds": len(self.seeds), "negative prompts": len(self.negatives)}
        if not self.prompts or len(set(counts.values())) > 1:
            found = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise AmdmError(f"AMDM: a batch needs one prompt and one seed for each picture, but it has {found}.")
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
        """The same batch with a seed in the place of each -1."""
        return replace(self, seeds=[secrets.randbelow(_RANDOM_SEEDS) if s == -1 else int(s) for s in self.seeds])


@dataclass
class Result:
    """A job's pictures. pictures: uint8 (images, height, width, 3). latents: float32 (images, 4, h, w), on the CPU.

    seeds: of each picture, the random ones too. evaluations: of the main model. co_evaluations: of each slot of the
    settings, 0 where it did not run. comments: what the user should know of the run. seconds: for all of it, loading
    included.
    """

    pictures: np.ndarray
    latents: Tensor
    seeds: list[int]
    evaluations: int
    co_evaluations: list[int]
    seconds: float
    comments: list[str] = field(default_factory=list)


class Standalone:
    """The checkpoints of some folders, and what is loaded of them; the pool lives and dies with this object.

    most_loaded: how many checkpoints stay loaded between pictures, if the last picture did not need more; and how many
    adapters. adapter_folders: where adapters and image encoders are.

    Several threads may ask. One batch is drawn at a time, because an adapter hangs on a network while it is evaluated,
    and other batches may be drawn with that network.
    """

    name = "standalone"

    def __init__(
        self,
        folders: Sequence[Path] | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        most_loaded: int = 4,
        adapter_folders: Sequence[Path] = (),
    ) -> None:
        self.folders = [folders] if isinstance(folders, Path) else list(folders)
        self.device, self.dtype, self.most_loaded = torch.device(device), dtype, most_loaded
        self.pool, self.autoencoders = Pool(), Pool()
        own = [Folder(folder, own=True) for folder in adapter_folders]
        self.families = ByState(family_in)
        self.adapters = Adapters(*lists(lambda: own, lambda: own))
        self._drawing = threading.RLock()
        self._files: dict[str, Path] = {}
        self.refresh_checkpoints()

    # the list

    def refresh_checkpoints(self) -> None:
        """Read the folders again; of two files with one name the first folder's counts."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for file in files_in(folder, SUFFIXES):
                found.setdefault(readable(file.relative_to(folder).as_posix()), file)
        self._files = found

    def checkpoint_titles(self) -> list[str]:
        return list(self._files)

    def checkpoint_title(self, name: str) -> str | None:
        """The list's own entry for a name (`find_title`); never a path."""
        return find_title(name, self._files)

    def checkpoint_family(self, name: str) -> Family | None:
        title = self.checkpoint_title(name)
        return self.families.of(self._files[title]) if title else None

    def main_checkpoint(self) -> str:
        """Each batch of pictures names its own."""
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
            listed = ", ".join(self._files) or "empty"
            raise AmdmError(
                f'{error_prefix}: "{name}" is not in the list of checkpoints ({listed}); choose one from it.'
            )
        if not self._files[title].is_file():
            raise AmdmError(
                f'{error_prefix}: "{title}" is not in its folder any more; refresh the list of checkpoints.'
            )
        return CheckpointFile(self._files[title], title, error_prefix)

    # what is loaded

    def load(self, name: str, error_prefix: str = "AMDM") -> Loaded:
        """The checkpoint's StandaloneModel, from the pool where it is kept; `error_prefix` opens its errors."""
        file = self._file(name, error_prefix)

        def read() -> Loaded:
            model = StandaloneModel(file, self.device, self.dtype)
            return Loaded(file.title, model, model.texts)

        return self.pool.get(str(file.path), self._variant(file, self.dtype), read)

    def model(self, name: str, error_prefix: str = "AMDM") -> StandaloneModel:
        """`load`, of which the name and the size do not matter."""
        model = self.load(name, error_prefix).model
        assert isinstance(model, StandaloneModel)
        return model

    def autoencoder(self, name: str) -> Autoencoder:
        """The checkpoint's VAE, in float32: in half precision some overflow."""
        file = self._file(name, "AMDM")

        def read() -> Loaded:
            return Loaded(file.title, Autoencoder(*file.autoencoder(torch.float32)).to(self.device))

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
        self, model: StandaloneModel, settings: AdapterSettings, seeds: Sequence[int], slot: int
    ) -> AtWork | None:
        """The adapter of a slot, or of the main model (slot 0), ready to work on the model's UNet; None for none."""
        if not settings.used:
            return None
        error_prefix, panel_label = (
            (f"AMDM co-model {slot}", f"co-model {slot}") if slot else ("AMDM", "the main adapter")
        )
        place = Place(model.unet, Family("SD1"), model, seeds, self.device, self.dtype, error_prefix, panel_label)
        return self.adapters.prepare(settings, place)

    # a picture

    def generate(
        self,
        job: Job,
        settings: Settings | None = None,
        progress: Callable[[int, int], None] | None = None,
        keep_drawing: Callable[[], bool] | None = None,
    ) -> Result:
        """Draw the batch, with the co-models of `settings` where they are switched on.

        progress(step, steps) is told of each sampling step. keep_drawing() is asked in each; once it says no,
        Interrupted is raised. AmdmError says in one sentence what is wrong.
        """
        job.check()
        job, settings = job.with_its_seeds(), settings or Settings()
        func = sampling.find_sampler(job.sampler)
        with self._drawing:
            try:
                report = _reporter(job.steps, progress, keep_drawing)
                return self._drawn(job, settings, func, report, time.perf_counter())
            except torch.cuda.OutOfMemoryError as error:
                self.unload()
                raise AmdmError(
                    f'AMDM: there is not enough GPU memory for "{job.checkpoint}" and its co-models; use fewer of '
                    "them, a smaller picture, or the CPU."
                ) from error

    def _drawn(
        self,
        job: Job,
        settings: Settings,
        func: Callable[..., Any],
        report: Callable[[dict[str, Any]], None],
        began: float,
    ) -> Result:
        comments = []
        slots = settings.active if settings.mixes else ()
        if slots and settings.which_pass == "hires":
            comments.append('AMDM: "pass" is set to hires, but there is one pass here, so no co-model was run.')
            slots = ()
        model = self.model(job.checkpoint)
        autoencoder = self.autoencoder(job.checkpoint)
        sigmas = sampling.noise_levels(model, job.sampler, job.schedule, job.steps)
        main_adapter = self.adapter_on(model, settings.main_adapter, job.seeds, 0) if settings.enabled else None
        progress = sampling.progress([model.level(sigma).ratio for sigma in sigmas.tolist()])
        denoiser = model.denoiser(job.prompts, job.negatives, job.cfg_scale, adapter=main_adapter, progress=progress)
        co_models = {number: _SlotModel(self, job, number, slot, progress) for number, slot in slots}
        if co_models:
            co_runs = [co_model.co_run(job) for co_model in co_models.values()]
            func = mixed(func, settings, co_runs, Pass(nominal_steps=job.steps, level_of=model.level))
        stream = ImageNoise(job.seeds, (LATENT_CHANNELS, *job.latent_size))
        latents = sampling.sample(func, denoiser, stream, sigmas, report)
        pictures = _bytes(autoencoder.decode(latents))
        self.pool.trim(max(self.most_loaded, 1 + len(co_models)))
        self.autoencoders.trim(self.most_loaded)
        used = {each.name for each in (main_adapter, *(co_model.adapter for co_model in co_models.values())) if each}
        self.adapters.trim(self.most_loaded, len(used))
        numbers = range(1, len(settings.co_models) + 1)
        counts = [co_models[number].denoiser.evaluations if number in co_models else 0 for number in numbers]
        seconds = time.perf_counter() - began
        drawn = latents.float().cpu()
        return Result(pictures, drawn, list(job.seeds), denoiser.evaluations, counts, seconds, comments)

    # what the panel needs

    def input_accordion(self, value: bool, label: str, elem_id: str) -> AbstractContextManager:
        from . import page

        return page.input_accordion(value, label, elem_id)

    def refresh_button(self, component: Any, refresh: Callable, choices: Callable, elem_id: str) -> Any:
        from . import page

        return page.refresh_button(component, refresh, choices, elem_id)

    def tool_button(self, text: str, elem_id: str, tooltip: str) -> Any:
        """gradio's own buttons have no tooltip."""
        from . import page

        return page.tool_button(text, elem_id)

    def option(self, name: str) -> Any:
        """No settings page: AMDM's options stand at their defaults."""
        raise KeyError(name)


class _SlotModel:
    """One slot's model for one batch: loaded, its texts encoded, ready to denoise."""

    def __init__(
        self, host: Standalone, job: Job, number: int, slot: CoModel, progress: Callable[[float], float]
    ) -> None:
        self.number, self.slot, self.progress = number, slot, progress
        self.main = host.model(job.checkpoint)
        error_prefix = f"AMDM co-model {number}"
        model = host.model(job.checkpoint if slot.checkpoint == MAIN_CHECKPOINT else slot.checkpoint, error_prefix)
        self.title = model.title
        count = len(job.prompts)
        self.adapter = host.adapter_on(model, slot.adapter_settings, job.seeds, number)
        self.denoiser: Denoiser = model.denoiser(
            [slot.prompt] * count if slot.prompt else job.prompts,
            [slot.negative_prompt] * count if slot.negative_prompt else job.negatives,
            slot.cfg_scale or job.cfg_scale,
            error_prefix,
            self.adapter,
            progress,
        )

    def co_run(self, job: Job) -> CoRun:
        model = self.denoiser.model
        state_key = self.state_key if self.adapter else None
        run = SlotRun(self.denoiser, model.highest, state_key, self.gave_nan, model.form)
        return co_run(self.number, self.slot, run, job.seeds, job.latent_size, self.main.highest)

    def state_key(self, ratio: float) -> bool:
        """True where the slot's adapter works at a noise to signal."""
        return self.progress(ratio) < self.slot.until

    def gave_nan(self) -> None:
        """Fail the picture: an evaluation's answer was not finite (`sampling.CoRun.on_nan`)."""
        raise AmdmError(
            f'AMDM co-model {self.number}: "{self.title}" gave NaN; choose another checkpoint, or run in float32.'
        )


def _reporter(
    steps: int, progress: Callable[[int, int], None] | None, keep_drawing: Callable[[], bool] | None
) -> Callable[[dict[str, Any]], None]:
    """Return the function for k-diffusion to call in each step; DPM adaptive may take more than were asked for."""

    def report(state: dict[str, Any]) -> None:
        if keep_drawing is not None and not keep_drawing():
            raise Interrupted
        if progress is not None:
            progress(min(state["i"] + 1, steps), steps)

    return report


def _bytes(pictures: Tensor) -> np.ndarray:
    """Pictures (batch, 3, h, w) from 0 to 1 as bytes (batch, h, w, 3), rounded down as the WebUI does."""
    return (pictures.permute(0, 2, 3, 1) * 255).to(torch.uint8).cpu().numpy()
