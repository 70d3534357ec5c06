"""One slot's model in one pass, on every WebUI: found, loaded, its texts encoded, evaluated, released.

The differences between the WebUIs are in the parts of a `Backend`, which each WebUI's `backend.py` combines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from modules import extra_networks, prompt_parser, sd_samplers, sd_samplers_common, shared

from ...comodels.adapter_use import AtWork, Place, within
from ...comodels.cache import Recent
from ...comodels.file_list import readable
from ...comodels.pixels import co_size, crossing
from ...comodels.placing import device_of
from ...comodels.prompts import is_main_prompt, prompt_of
from ...comodels.weight_swap import Change, changed
from ...core.accelerator import is_memory_error
from ...core.arguments import ONE_SPACE, Crossing, Prediction
from ...errors import AdapterError, AmdmError, cause
from ...settings import MAIN_CHECKPOINT, THROUGH_PIXELS, CoModel
from ..webui_types import CheckpointInfo, Denoiser
from . import refusals
from .autoencoders import PassAutoencoder
from .backend import Evaluation, SlotLoras
from .checkpoint_list import find_checkpoint
from .phrases import SlotPhrases
from .styles import refuse_unknown, with_styles

logger = logging.getLogger(__name__)

LORAS = ("lora", "lyco")
"""The WebUIs' names for LoRAs in prompts."""
ALMOST_ALL = 0.999
"""The progress of evaluations beyond the last step, which DPM adaptive may make."""


def progress(denoiser: Denoiser, step: int) -> float:
    """Return the fraction of the sampling steps that are done, by the host's own count of evaluations."""
    return min(step / denoiser.total_steps, ALMOST_ALL)


class SlotModel:
    """One slot's model in one pass. Slot 0 is the main model's adapter."""

    model: Any
    texts: Recent
    loras: SlotLoras | None = None
    changes: list[Change] | None = None
    adapter: AtWork | None = None
    is_foreign = False
    """True if its latents are of another space than the main model's."""

    def __init__(self, run: Any, number: int, slot: CoModel) -> None:
        """Find and load the model, and encode its texts; AmdmError names a problem. run: the `PassRun`."""
        self.run, self.backend, self.number, self.slot = run, run.backend, number, slot
        self.evaluations = 0
        checkpoints, (main_device, _) = self.backend.checkpoints, self.backend.adapters.numbers(run.main)
        self.device = device_of(number, slot, main_device, checkpoints.reason_against)
        self.is_main = slot.checkpoint == MAIN_CHECKPOINT
        self.info = run.main.sd_checkpoint_info if self.is_main else self._find()
        shared.state.textinfo = f"AMDM: loading {self.info.name_for_extra}"
        with self._in_words("loading"):
            self._load()
            self.title = MAIN_CHECKPOINT if self.is_main else readable(self.info.title)
            self.cond, self.uncond = self._encode()
            if not self.backend.unet_is_final_in_pass:
                self._compute_loras()
            adapter = slot.adapter_settings
            if run.crop is not None:
                adapter = within(adapter, run.crop)
            if adapter.used:
                self.adapter = run.kept.adapters.prepare(adapter, self._place())

    # found and loaded

    @property
    def error_prefix(self) -> str:
        """The beginning of an error's text."""
        return f"AMDM co-model {self.number}" if self.number else "AMDM"

    @property
    def panel_label(self) -> str:
        """The name of the slot's controls in an error's text."""
        return f"co-model {self.number}" if self.number else "the main adapter"

    def _find(self) -> CheckpointInfo:
        info = find_checkpoint(self.slot.checkpoint)
        if info is None:
            raise AmdmError(
                f'{self.error_prefix}: "{self.slot.checkpoint}" is not in the WebUI\'s list of checkpoints; '
                "refresh the list or choose another checkpoint."
            )
        return info

    def _load(self) -> None:
        run, checkpoints = self.run, self.backend.checkpoints
        if self.is_main:
            self.model, self.texts = run.main, run.kept.main_texts
            return
        main = checkpoints.family(run.main)
        modules = self.slot.module_names if checkpoints.takes_modules else []
        load = partial(checkpoints.load, self.info, run.main, self.number, modules, self.device)
        # if the main model has another latent space, it is loaded with its VAE
        variant = (*checkpoints.variant(), *modules, main.space, self.device)
        loaded = run.kept.pool.get(self.info.filename, variant, load)
        self.model, self.texts = checkpoints.model_of(loaded.model), loaded.texts
        # checked again: a kept model may have been loaded with another main model
        family = checkpoints.family(self.model)
        refusals.refuse_other_family(self.number, self.info, family, run.main.sd_checkpoint_info, main)
        self.is_foreign = family.crosses(main)
        checkpoints.prepare(loaded.model, run.p, run.main)

    # its texts and LoRAs

    def _encode(self) -> tuple[Any, Any]:
        """Encode the slot's texts with this model's text encoder and the host's schedule.

        The host has expanded the main prompts, and taken their LoRAs out.
        """
        p, hook = self.run.p, self.run.hook
        main_texts = (p.hr_prompts, p.hr_negative_prompts) if p.is_hr_pass else (p.prompts, p.negative_prompts)
        encoders = (prompt_parser.get_multicond_learned_conditioning, prompt_parser.get_learned_conditioning)
        needed = (True, self.backend.texts.needs_negative(self.slot.cfg_scale))
        refuse_unknown(self.slot.prompt, "prompt", self.error_prefix)
        refuse_unknown(self.slot.negative_prompt, "negative prompt", self.error_prefix)
        # before LoRAs are read, since a style may name some
        prompt, networks = extra_networks.parse_prompt(with_styles(self.slot.prompt))
        negative, others = extra_networks.parse_prompt(with_styles(self.slot.negative_prompt, negative=True))
        named = [network for kind in LORAS for network in networks.pop(kind, [])]
        self._refuse_networks(networks, "prompt")
        self._refuse_networks(others, "negative prompt")
        self.loras = self.backend.texts.loras(self.model, named, self.error_prefix) if named else None
        conds: list[Any] = []
        for text, main, encoder, ready, is_needed in zip(
            (prompt, negative), main_texts, encoders, (hook["c"], hook["uc"]), needed
        ):
            if not is_needed:
                conds.append(None)
            elif self.is_main and is_main_prompt(text) and ready is not None and not self.loras:
                conds.append(ready)
            else:
                conds.append(self._encoded([prompt_of(text, of_picture) for of_picture in main], encoder))
        return conds[0], conds[1]

    def _refuse_networks(self, named: Mapping[str, Any], where: str) -> None:
        if named:
            raise AmdmError(
                f'{self.error_prefix}: its {where} names an extra network ("<{next(iter(named))}:...>"), which '
                "co-models cannot load there; remove it."
            )

    def _encoded(self, texts: Sequence[str], encoder: Callable[..., Any]) -> Any:
        p = self.run.p
        hires, negative = p.is_hr_pass, encoder is prompt_parser.get_learned_conditioning
        width, height = (p.hr_upscale_to_x, p.hr_upscale_to_y) if hires else (p.width, p.height)
        if self.sees_pictures:
            height, width = self._own_size(height, width)
        beside = self.backend.texts.arguments
        conditioning = prompt_parser.SdConditioning(
            texts, is_negative_prompt=negative, width=width, height=height, **beside
        )
        config = sd_samplers.find_sampler_config(p.sampler_name)
        steps = config.total_steps(p.steps) if config else p.steps
        hires_steps = None
        if hires:
            config = sd_samplers.find_sampler_config(p.hr_sampler_name or p.sampler_name)
            hires_steps = config.total_steps(self.run.pass_steps) if config else self.run.pass_steps
        further = self.backend.texts.parser_options()

        def encode() -> Any:
            with self._encoding():
                return encoder(self.model, conditioning, steps, hires_steps, *further)

        key = (tuple(conditioning), negative, width, height, steps, hires_steps, *beside.values(), *self._text_key())
        logger.debug(
            "%s: %s %s: %s, LoRAs %s",
            self.error_prefix,
            self.title,
            "has kept" if key in self.texts else "encodes",
            list(dict.fromkeys(conditioning)),
            self.loras.key if self.loras else "none",
        )
        return self.texts.get(key, encode)

    def _text_key(self) -> tuple[Any, ...]:
        """Return everything that affects how this model encodes a text, besides the text and its schedule."""
        return (*self.backend.texts.options(self.model), self.loras.key if self.loras else ())

    @contextmanager
    def _encoding(self) -> Iterator[None]:
        """Give this model's text encoder its own LoRAs during the context."""
        with self.backend.texts.encoding(self.model), changed(self.loras.of_texts() if self.loras else []):
            yield

    def _compute_loras(self) -> list[Change]:
        """Compute the UNet's other weights, once."""
        if self.changes is None:
            self.changes = self.loras.of_unet() if self.loras else []
        return self.changes

    # its adapter

    def _place(self) -> Place:
        places, encoder = self.backend.adapters, self.backend.adapters.phrase_encoder(self.model)
        device, dtype = places.numbers(self.model)
        phrases = None
        if encoder is not None:
            cache = self.texts, self._text_key()
            where = partial(places.phrase_device, self.model)
            phrases = SlotPhrases(self.model, encoder, cache, self._encoding, where, self.error_prefix)
        return Place(
            unet=places.unet(self.model),
            family=self.backend.checkpoints.family(self.model),
            phrases=phrases,
            seeds=self.run.seeds,
            device=device,
            dtype=dtype,
            error_prefix=self.error_prefix,
            panel_label=self.panel_label,
            make_room=partial(places.make_room, device),
            image_dtype=places.image_dtype(device),
        )

    # evaluated

    def state_key(self, sigma: float) -> Hashable:
        """Return the current parts of the scheduled prompts, of this model and of the main one, and of their adapters.

        It is the `state_key` of `CoRun`.
        """
        step, hook = self.run.step, self.run.hook
        texts = tuple(_scheduled(cond, step) for cond in (self.cond, self.uncond, hook["c"], hook["uc"]))
        share = progress(self.run.denoiser, step)
        models = (model for model in (self, self.run.main_model) if model is not None and model.adapter)
        return texts, tuple(share < model.slot.until for model in models)

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> Prediction:
        """Return the model's prediction, for `CoRun.denoise`."""
        state, run = shared.state, self.run
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        step = run.step
        state.textinfo = f"AMDM: evaluation {self.evaluations + 1} of {self.info.name_for_extra}"
        texts = (self.cond, self.uncond, self.backend.evaluator.cond_scale(self.slot.cfg_scale), self.texts)
        try:
            with self._in_words("running"), run.stopwatch.running(), run.memory_of(self):
                denoised = self.backend.evaluator.denoised(
                    Evaluation(
                        self.model,
                        x,
                        sigma,
                        step,
                        *texts,
                        lambda: changed(self._compute_loras()),
                        self.adapter,
                        self.is_foreign,
                    )
                )
        finally:
            state.textinfo = None
        self.count_evaluation()
        return denoised

    @property
    def sees_pictures(self) -> bool:
        """True if it is run through pixels."""
        return self.is_foreign or self.slot.noise == THROUGH_PIXELS

    def _own_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of its pictures through pixels, for those of the main model."""
        return co_size(self.slot.size, self.backend.checkpoints.family(self.model).native_side, height, width)

    def _autoencoder(self, model: Any) -> PassAutoencoder:
        """Return the pass's autoencoder of a model: several slots may read the main one's."""
        if id(model) not in self.run.autoencoders:
            self.run.autoencoders[id(model)] = self._new_autoencoder(model)
        return self.run.autoencoders[id(model)]

    def _new_autoencoder(self, model: Any) -> PassAutoencoder:
        """Return a model's autoencoder, or the host's small one in its place."""
        if self.run.options.small_autoencoders:
            # not every picture needs what it imports from the host
            from .small_autoencoders import small_autoencoder

            small = small_autoencoder(self.backend.checkpoints.family(model), self.run.pixel_stopwatch)
            if small is not None:
                return small
        return self.backend.autoencoder(model)

    def crossing(self) -> Crossing:
        """Return the way between the main model's latents and this one's."""
        if not self.sees_pictures:
            return ONE_SPACE
        main = self._autoencoder(self.run.main)
        coder = self._autoencoder(self.model) if self.is_foreign else main
        way = crossing(main, coder, self._own_size)

        def to_own(latents: torch.Tensor) -> torch.Tensor:
            with self._in_words("running"):
                return way.to_own(latents)

        def to_main(latents: torch.Tensor) -> torch.Tensor:
            with self._in_words("running"):
                made = way.to_main(latents)
                self.backend.evaluator.main_in_place()
                return made

        return Crossing(to_own, to_main)

    def count_evaluation(self) -> None:
        self.evaluations += 1

    def gave_nan(self) -> None:
        """Fail the pass, as an evaluation's output was not finite, for `CoRun.on_nan`."""
        self.evaluations -= 1
        remedy = f"choose another checkpoint, or {self.backend.nan_remedy}"
        self.run.failed(AmdmError(f'{self.error_prefix}: "{self.info.name}" gave NaN; {remedy}.'))

    # released

    def release(self) -> None:
        """Make room on the GPU, and drop the model."""
        model, adapter = self.model, self.adapter
        self.drop()
        if model is not None:
            self.backend.evaluator.park(model, adapter)

    def drop(self) -> None:
        """Drop the references to the model: the pass may keep this object longer than the cache keeps the model."""
        self.model = self.adapter = self.loras = self.changes = None

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        """Turn any error into one sentence that names the co-model, the file and the remedy."""
        try:
            yield
        except Exception as error:
            if is_memory_error(error):
                self.drop()
                raise self.run.out_of_memory(error, self.error_prefix, self.info.name) from error
            if isinstance(error, AmdmError):
                raise
            if isinstance(error, AdapterError):
                raise AmdmError(f"{self.error_prefix}: {error}") from error
            raise AmdmError(
                f'{self.error_prefix}: {doing} "{self.info.name}" failed ({cause(error)}); '
                f"choose another checkpoint, or switch {self.panel_label} off."
            ) from error


def _scheduled(cond: Any, step: int) -> tuple[int, ...]:
    """Return the entry of each of the schedules that applies to a step."""
    if cond is None:
        return ()
    images = getattr(cond, "batch", None)
    schedules = cond if images is None else [part.schedules for image in images for part in image]
    return tuple(
        next((n for n, entry in enumerate(schedule) if step <= entry.end_at_step), 0) for schedule in schedules
    )
