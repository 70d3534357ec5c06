"""One slot's model in one pass, on every WebUI: found, loaded, its texts encoded, evaluated, let go."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from modules import extra_networks, prompt_parser, sd_models, sd_samplers, sd_samplers_common, shared

from ...comodels.adapter_use import AtWork, Place
from ...comodels.cache import Recent
from ...comodels.file_list import readable
from ...comodels.weight_swap import Change, changed
from ...errors import AdapterError, AmdmError
from ...settings import MAIN_CHECKPOINT, CoModel
from .host import find_checkpoint
from .refusals import one_line

LORAS = ("lora", "lyco")
"""What the WebUIs' prompts call LoRAs."""
ALMOST_ALL = 0.999
"""Progress of evaluations beyond the last step: DPM adaptive takes as many as it likes."""


def progress(denoiser: Any, step: int) -> float:
    """The share of the sampling steps that are done, by the host's own count of evaluations."""
    return min(step / denoiser.total_steps, ALMOST_ALL)


class Lora(Protocol):
    """The LoRAs of a slot's own prompt, on its model alone."""

    key: tuple[Any, ...]
    """What tells them apart."""

    def of_texts(self) -> list[Change]:
        """The text encoder's other weights."""

    def of_unet(self) -> list[Change]:
        """The UNet's other weights."""


class SlotModel:
    """One slot's model in one pass: loaded, its texts encoded, ready to denoise. Slot 0 is the main model's adapter."""

    memory_remedy: str
    nan_remedy: str
    texts: Recent
    model: Any
    lora: Lora | None = None
    adapter: AtWork | None = None

    def __init__(self, run: Any, number: int, slot: CoModel) -> None:
        self.run, self.number, self.slot = run, number, slot
        self.evaluations = 0
        self.is_main = slot.checkpoint == MAIN_CHECKPOINT
        self.info = run.main.sd_checkpoint_info if self.is_main else self._find()
        self.title = MAIN_CHECKPOINT if self.is_main else readable(self.info.title)
        shared.state.textinfo = f"AMDM: loading {self.info.name_for_extra}"
        with self._in_words("loading"):
            if self.is_main:
                self.model, self.texts = run.main, run.host.main_texts
            else:
                self._load()
                self.title = readable(self.info.title)
            self.cond, self.uncond = self._encode()
            self.changes: list[Change] = []
            self._apply_lora()
            if slot.adapter_settings.used:
                self.adapter = run.host.adapters.prepare(slot.adapter_settings, self._place())

    @property
    def error_prefix(self) -> str:
        """What opens a complaint."""
        return f"AMDM slot {self.number}" if self.number else "AMDM"

    @property
    def panel_label(self) -> str:
        """What the slot's controls are called in a complaint."""
        return f"co-model {self.number}" if self.number else "the main adapter"

    def _apply_lora(self) -> None:
        """Compute the UNet's other weights, where this is possible before the pass."""
        self.changes = self.lora.of_unet() if self.lora else []

    def _place(self) -> Place:
        """This model, for an adapter to be put on."""
        raise NotImplementedError

    def _lora(self, named: Sequence[Any]) -> Lora:
        """The LoRAs that the slot's prompt names, as the host's parser gives them."""
        raise NotImplementedError

    def _load(self) -> None:
        """Set the model and its texts, ready for this pass."""
        raise NotImplementedError

    def _denoised(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        """The denoised latent after guidance, as the host's own denoiser gives it for its main model."""
        raise NotImplementedError

    def _dialect(self) -> tuple[Any, ...]:
        """What, beside a text and its schedule, decides how this model encodes it."""
        raise NotImplementedError

    def _encoding(self) -> AbstractContextManager[None]:
        """Around the encoding of a text: ready to encode, and what the host notes of it is not noted of co-models."""
        raise NotImplementedError

    def park(self) -> None:
        """After the early steps: make room on the GPU, where the host does not do so by itself."""

    def let_go(self) -> None:
        """Refer to the model no more: the pass may hold this object for a while, and the pool may drop the model."""
        self.model = self.adapter = self.lora = None
        self.changes = []

    @property
    def cond_scale(self) -> float:
        """The slot's own guidance scale, or the main model's."""
        return self.slot.cfg_scale or self.run.cond_scale

    def state_key(self, sigma: float) -> Hashable:
        """Which parts of the scheduled prompts hold in this step, of this model and of the main one, and whether their
        adapters work in it."""
        step, hook = self.run.denoiser.step - 1, self.run.hook
        texts = tuple(_scheduled(each, step) for each in (self.cond, self.uncond, hook["c"], hook["uc"]))
        share = progress(self.run.denoiser, step)
        models = (model for model in (self, self.run.main_model) if model is not None and model.adapter)
        return texts, tuple(share < model.slot.until for model in models)

    def _needs_negative(self) -> bool:
        """Whether the negative prompt is encoded at all."""
        return True

    def _find(self) -> sd_models.CheckpointInfo:
        info = find_checkpoint(self.slot.checkpoint)
        if info is None:
            raise AmdmError(
                f'{self.error_prefix}: "{self.slot.checkpoint}" is not in the WebUI\'s list of checkpoints; '
                "refresh the list or choose another checkpoint."
            )
        return info

    def _encode(self) -> tuple[Any, Any]:
        """The slot's own texts, or the main prompt's, through this model's text encoder, as the host schedules them."""
        p, hook = self.run.p, self.run.hook
        mains = (p.hr_prompts, p.hr_negative_prompts) if p.is_hr_pass else (p.prompts, p.negative_prompts)
        encoders = (prompt_parser.get_multicond_learned_conditioning, prompt_parser.get_learned_conditioning)
        wanted = (True, self._needs_negative())
        prompt, networks = extra_networks.parse_prompt(self.slot.prompt)
        negative, others = extra_networks.parse_prompt(self.slot.negative_prompt)
        loras = [named for kind in LORAS for named in networks.pop(kind, [])]
        self._refuse_networks(networks, "prompt")
        self._refuse_networks(others, "negative prompt")
        self.lora = self._lora(loras) if loras else None
        conds = []
        for given, main, encoder, ready, want in zip(
            (prompt, negative), mains, encoders, (hook["c"], hook["uc"]), wanted
        ):
            if not want:
                conds.append(None)
            elif self.is_main and not given.strip() and ready is not None and not self.lora:
                conds.append(ready)
            else:
                conds.append(self._encoded([given] * len(main) if given.strip() else main, encoder))
        return conds[0], conds[1]

    def _refuse_networks(self, named: Mapping[str, Any], where: str) -> None:
        if named:
            raise AmdmError(
                f'{self.error_prefix}: its {where} names an extra network ("<{next(iter(named))}:...>"), which '
                "co-models cannot load there; remove it."
            )

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
            with self.encoding():
                return encoder(self.model, texts, steps, hires_steps, old)

        return self.texts.get((tuple(texts), negative, width, height, steps, hires_steps, *self.text_key()), encode)

    def text_key(self) -> tuple[Any, ...]:
        """What, beside a text and its schedule, decides how this model encodes it, its own LoRAs included."""
        return (*self._dialect(), self.lora.key if self.lora else ())

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Around the encoding of a text by this model, with its own LoRAs."""
        with self._encoding(), changed(self.lora.of_texts() if self.lora else []):
            yield

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The model's denoised latent after guidance (`sampling.CoRun.denoise`)."""
        state, run = shared.state, self.run
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if run.stopped:
            return x
        step = run.denoiser.step - 1
        state.textinfo = f"AMDM: evaluation {self.evaluations + 1} of {self.info.name_for_extra}"
        try:
            with self._in_words("running"):
                denoised = self._denoised(x, sigma, step)
        except AmdmError as error:
            run.failed(error)
            return x
        self.evaluations += 1
        return denoised

    def gave_nan(self) -> None:
        """Fail the pass: an evaluation's answer was not finite (`sampling.CoRun.on_nan`)."""
        self.evaluations -= 1
        gave = f'{self.error_prefix}: "{self.info.name}" gave NaN'
        self.run.failed(AmdmError(f"{gave}; choose another checkpoint, or {self.nan_remedy}."))

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong becomes one sentence that names the slot, the file and the remedy."""
        try:
            yield
        except AmdmError:
            raise
        except AdapterError as error:
            raise AmdmError(f"{self.error_prefix}: {error}") from error
        except torch.cuda.OutOfMemoryError as error:
            self.run.host.unload()
            raise AmdmError(
                f'{self.error_prefix}: there is not enough GPU memory for "{self.info.name}" beside the main '
                f"checkpoint; use fewer co-models, a smaller picture, or {self.memory_remedy}."
            ) from error
        except Exception as error:
            raise AmdmError(
                f'{self.error_prefix}: {doing} "{self.info.name}" failed ({one_line(error)}); '
                "choose another checkpoint or empty the slot."
            ) from error


def _scheduled(cond: Any, step: int) -> tuple[int, ...]:
    """Which entry of each of its schedules holds in a step."""
    if cond is None:
        return ()
    images = getattr(cond, "batch", None)
    schedules = cond if images is None else [part.schedules for image in images for part in image]
    return tuple(next((n for n, entry in enumerate(each) if step <= entry.end_at_step), 0) for each in schedules)
