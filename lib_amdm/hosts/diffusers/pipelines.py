"""A pipeline with others alongside it: `amdm` around its scheduler's steps.

A pipeline is wrapped instead of its scheduler, which knows neither the VAE of its latents nor, where they are packed,
their height and width. A co-model is a pipeline that is called whole for each evaluation, so its texts, guidance,
adapters and offloading are handled by the co-model's own pipeline. A call gets a latent and makes one step, and the
prediction of this step is kept.
"""

from __future__ import annotations

import copy
import functools
import inspect
import secrets
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...comodels.mixing import SlotRun, co_run
from ...core.arguments import AUTO, CoRun, Mixing, Pass, Prediction
from ...core.sampling import amdm
from ...errors import AmdmError
from ...files.pictures import as_text
from ...settings import CoModel
from ...settings.schema import read
from .latents import packed, space_of, unpacked
from .schedules import Training, adds_noise, check_scheduler, levels_of, position
from .unprompted import Unprompted

DEFAULT = Mixing(evaluations=AUTO)
_MIXED = ("gamma", "gamma_end", "eta", "region", "feather", "noise")
"""The settings of a co-model that do not depend on how a host loads and calls it."""
_TEXTS = ("prompt", "negative_prompt")
_INHERITED = (*_TEXTS, "guidance_scale", "true_cfg_scale")
"""The arguments that a co-model's call has in common with the main one's, unless it is given others."""
_WITHOUT_USE = {"height", "width", "latents", "generator", "num_images_per_prompt", "num_inference_steps"}
_WITHOUT_USE |= {"output_type", "return_dict", "timesteps", "sigmas", "control_guidance_start", "control_guidance_end"}
"""Arguments that a call of one step sets itself, or that name steps of a whole run."""


class CoPipeline:
    """A pipeline that is run alongside the main one."""

    def __init__(self, pipeline: Any, prompt: Any = None, **by_name: Any) -> None:
        """Check the settings.

        pipeline: from text to image, with the main one's latents; it may be the main one itself.
        prompt: one for all pictures, or one for each prompt of the main call.
        by_name: settings of a co-model, as in the README (gamma, gamma_end, eta, region, mask as a PIL image, feather,
            noise), and further arguments of the pipeline's call (negative_prompt, guidance_scale, true_cfg_scale, ...).

        Prompts and guidance that are not given are the main call's.
        """
        mask = as_text(by_name.pop("mask", None), "mask")
        slot = {name: by_name.pop(name) for name in _MIXED if name in by_name}
        self.slot = read(CoModel, {"mask": mask, **slot}, f"the co-model {type(pipeline).__name__}")
        self.pipeline, self.arguments = pipeline, {"prompt": prompt, **by_name}

    def check(self, main: Any, number: int) -> None:
        """Raise AmdmError if the pipeline cannot be run alongside `main`. number: the co-model's, from 1."""
        pipe, taken = self.pipeline, inspect.signature(self.pipeline.__call__).parameters
        prefix, space, of_main = f"AMDM co-model {number}: {type(pipe).__name__}", space_of(pipe), space_of(main)
        unet = getattr(pipe, "unet", None)
        needs_pictures = "strength" in taken or (unet and unet.config.in_channels != unet.config.out_channels)
        if needs_pictures or "latents" not in taken or not hasattr(pipe, "encode_prompt"):
            raise AmdmError(f"{prefix} does not draw from text alone; give AutoPipelineForText2Image.from_pipe(pipe).")
        if space and of_main and space != of_main:
            others = f"other latents than the main {type(main).__name__} (their VAEs differ)"
            raise AmdmError(f"{prefix} has {others}; choose a model of the main one's kind.")
        for name in self.arguments.keys() - (taken.keys() - _WITHOUT_USE):
            raise AmdmError(f"{prefix} can do nothing with the argument {name}; leave it out.")


def amdm_pipeline(
    pipe: Any, co_models: Sequence[CoPipeline], mixing: Mixing = DEFAULT, **by_name: Any
) -> Callable[..., Any]:
    """Return a function that is called as `pipe` is, and draws with other pipelines in the first steps (Algorithm 2).

    pipe: any pipeline that draws in latents with a scheduler.
    co_models: the others, in slot order.
    by_name: fields of `mixing`, such as steps=8.

    The scheduler is changed during a call alone, and not at all with no co-model, every gamma 0 or no step to mix.
    AmdmError says in one sentence what cannot be run together.
    """
    mixing = replace(mixing, **by_name)
    running = {number: co for number, co in enumerate(co_models, 1) if co.slot.has_share or mixing.force}
    for pipeline in (pipe, *(co.pipeline for co in running.values())):
        if not hasattr(pipeline, "vae_scale_factor") or not hasattr(pipeline, "scheduler"):
            raise AmdmError(f"AMDM cannot follow {type(pipeline).__name__}; choose a pipeline that draws in latents.")
    for number, co in running.items():
        co.check(pipe, number)

    @functools.wraps(pipe.__call__)
    def together(*args: Any, **kwargs: Any) -> Any:
        if not running or mixing.is_empty:
            return pipe(*args, **kwargs)
        check_scheduler(pipe.scheduler)
        call = inspect.signature(pipe.__call__).bind(*args, **kwargs)
        call.apply_defaults()
        steps = _Steps(pipe, running, mixing, call.arguments)
        around: dict[str, Callable[..., Any]] = {
            "step": steps.step,
            "add_noise": steps.noised,
            "scale_noise": steps.noised,
        }
        with _replaced(pipe.scheduler, **around), steps.unprompted.read():
            result = pipe(*args, **kwargs)
        # the sampler reports what is still pending
        next(steps.sampler, None)
        return result

    return together


@contextmanager
def _replaced(scheduler: Any, **around: Callable[..., Any]) -> Iterator[None]:
    """Make a context in which methods of a scheduler are other functions, which get the method first."""
    before = dict(vars(scheduler))
    for name in around:
        if method := getattr(scheduler, name, None):
            # pipelines read the signature of a step
            setattr(scheduler, name, functools.wraps(method)(functools.partial(around[name], method)))
    try:
        yield
    finally:
        for name in around:
            vars(scheduler).pop(name, None)
        vars(scheduler).update({name: before[name] for name in around if name in before})


def _sampler(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, eta: float) -> Generator[Any, Any, None]:
    """Answer each latent, with its level and denoised latent, that is sent here with the denoised latent to use.

    x: the first latent.
    sigmas: the numbers of its levels.
    eta: how much noise the scheduler adds in each step.
    """
    sent = yield
    while sent is not None:
        sent = yield model(*sent)


def _guidance(pipe: Any, arguments: Mapping[str, Any]) -> float:
    """Return the guidance scale of a pipeline's call."""
    taken = inspect.signature(pipe.__call__).parameters
    # where a pipeline takes both, the other one is an input of a distilled network
    name = "true_cfg_scale" if "true_cfg_scale" in taken else "guidance_scale"
    scale = arguments.get(name, taken[name].default if name in taken else 1.0)
    return float(1.0 if scale is None else scale)


class _Steps:
    """The scheduler's steps in one call of a pipeline, as the steps of a sampler. arguments: those of the call.

    The sampler's number for a noise level is how many steps are left at it, which no rounding can confuse.
    """

    def __init__(
        self, pipe: Any, co_models: Mapping[int, CoPipeline], mixing: Mixing, arguments: dict[str, Any]
    ) -> None:
        self.pipe, self.co_models, self.mixing, self.training = pipe, co_models, mixing, Training.of(pipe.scheduler)
        # copied, because some pipelines write into lists of texts
        self.arguments: Any = {
            name: [*value] if isinstance(value, list) else value for name, value in arguments.items()
        }
        self.unprompted = Unprompted(pipe, _guidance(pipe, self.arguments))
        self.clean: Tensor | None = None
        self.base: Tensor | None = None
        """The denoised latent of this step without the prompt."""
        self.timestep: Any = None
        self.sampler: Any = iter(())

    def noised(self, method: Callable[..., Tensor], clean: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the clean latent that the first one is made of (img2img)."""
        if self.timestep is None:
            self.clean = clean
        return method(clean, *args, **kwargs)

    def step(self, method: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **more: Any) -> Any:
        """Make the scheduler's step with the joint prediction."""
        scheduler, wide = self.pipe.scheduler, torch.promote_types(sample.dtype, torch.float32)
        sides = self.arguments.get("height"), self.arguments.get("width")
        x, predicted = (unpacked(self.pipe, tensor, *sides).to(wide) for tensor in (sample, model_output))
        place, begins, self.timestep = position(scheduler, timestep), self.timestep is None, timestep
        if begins:
            self.levels = levels_of(scheduler)
            self.left = torch.arange(len(self.levels), dtype=torch.float64).flip(0)
            self.sampler = self._begun(x, place, adds_noise(scheduler, more))
        of_latent, of_output = self.training.parts(self.levels[place])
        denoised = of_latent * x + of_output * predicted
        base = self.unprompted.base(model_output)
        self.base = None if base is None else of_latent * x + of_output * unpacked(self.pipe, base, *sides).to(wide)
        joint = self.sampler.send((x, self.left[place], denoised))
        # a co-model may be a pipeline of the same network
        self.unprompted.outputs.clear()
        if joint is not denoised:
            change = packed(self.pipe, (joint - denoised) / of_output)
            model_output = (model_output.to(wide) + change.reshape(sample.shape)).to(model_output.dtype)
        return method(model_output, timestep, sample, *args, **more)

    def _begun(self, x: Tensor, place: int, is_noisy: bool) -> Generator[Any, Any, Any]:
        """Return the sampler, which begins with `x` at a place in the schedule and waits for its first latent."""
        co_runs = [_Evaluations(co, number, self, x).co_run() for number, co in self.co_models.items()]
        init = None if self.clean is None else self.clean.reshape(x.shape)
        in_pass = Pass(
            init=init,
            guidance=self.unprompted.scale,
            base=lambda: self.base,
            level_of=lambda left: self.levels[-1 - round(left)],
        )
        sampler = amdm(_sampler, co_runs, self.mixing, in_pass)
        begun = sampler(lambda x, sigma, denoised: denoised, x, self.left[place:], float(is_noisy))
        next(begun)
        return begun


class _OneStep:
    """The scheduler of a pipeline that makes one step: it keeps what the model predicts, and changes no latent.

    wrapped: the pipeline's scheduler, for everything that is not the step.
    """

    order, init_noise_sigma = 1, 1.0

    def __init__(self, wrapped: Any, timesteps: Tensor) -> None:
        self.wrapped, self.timesteps, self.output = wrapped, timesteps, timesteps

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["wrapped"], name)

    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        self.timesteps = self.timesteps.to(device)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Do nothing: there is one step."""

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.output = model_output
        return (sample,)


class _Evaluations:
    """The evaluations of a co-model in one call of the main pipeline. x: the main model's first latent."""

    def __init__(self, co_model: CoPipeline, number: int, main: _Steps, x: Tensor) -> None:
        self.pipeline, self.slot, self.number, self.main, self.x = co_model.pipeline, co_model.slot, number, main, x
        self.prefix = f"AMDM co-model {number}: {type(self.pipeline).__name__}"
        self.training, self.encoded, self.calls = Training.of(self.pipeline.scheduler), list[Any](), 0
        self.sides = [side * self.pipeline.vae_scale_factor for side in x.shape[-2:]]
        self.arguments = self._arguments(co_model.arguments)
        self.unprompted = Unprompted(self.pipeline, _guidance(self.pipeline, self.arguments))

    def co_run(self) -> CoRun:
        highest, form = self.training.domain
        generator, (height, width) = self.main.arguments.get("generator"), self.x.shape[-2:]
        generators = [generator] if isinstance(generator, torch.Generator) else generator or []
        seeds = [one.initial_seed() + more for one in generators for more in range(len(self.x) // len(generators))]
        seeds = seeds or [secrets.randbelow(2**63) for _ in self.x]
        model = SlotRun(self.denoised, highest, None, self.refuse_nan, form, guidance=self.unprompted.scale)
        return co_run(self.number, self.slot, model, seeds, (height, width), self.main.training.domain[0])

    def _arguments(self, own_arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of its calls, but for the latent. own_arguments: those given to the co-model."""
        taken = inspect.signature(self.pipeline.__call__).parameters
        inherited = {name: self.main.arguments.get(name) for name in _INHERITED if name in taken}
        both = {**inherited, **{name: value for name, value in own_arguments.items() if value is not None}}
        per_prompt = self.main.arguments.get("num_images_per_prompt") or 1
        count = len(self.x) // per_prompt
        for name in _TEXTS:
            text = None if "prompt_embeds" in own_arguments else both.get(name)
            both[name] = [text] * count if isinstance(text, str) else text and list(text)
            if text and len(both[name]) != count:
                raise AmdmError(f"{self.prefix} needs a {name} for each of the main call's {count}, or one for all.")
        if both["prompt"] is None and "prompt_embeds" not in own_arguments:
            raise AmdmError(f"{self.prefix} has no prompt; give CoPipeline(pipeline, prompt).")
        both |= {"height": self.sides[0], "width": self.sides[1], "num_images_per_prompt": per_prompt}
        both |= {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}
        return {name: value for name, value in both.items() if value is not None}

    def denoised(self, x: Tensor, sigma: Tensor) -> Prediction:
        """Return the prediction: see `CoRun.denoise`."""
        number = float(sigma[0])
        level, timestep = self.training.shown(number)
        # where two models were trained on the same levels, rounding must not make their timesteps differ
        alike = self.main.training[1:] == self.training[1:]
        latent = x * (level.sigma / number)
        output = self._output(latent, torch.as_tensor(self.main.timestep if alike else timestep).reshape(1))
        of_latent, of_output = self.training.parts(level)
        return output.changed(lambda part: of_latent * latent + of_output * part)

    def _output(self, latent: Tensor, timesteps: Tensor) -> Prediction:
        """Return what the pipeline's network predicts for a latent, guided and without the prompt."""
        # a copy with the same models: the pipeline itself may be in the middle of a call
        pipe, scheduler, self.calls = copy.copy(self.pipeline), _OneStep(self.pipeline.scheduler, timesteps), 0
        vars(pipe).update(scheduler=scheduler, encode_prompt=self._encode)
        pipe.set_progress_bar_config(disable=True)
        # pipelines with a UNet take latents as they are, the others convert them
        shown = packed(pipe, latent).to(pipe.unet.dtype if hasattr(pipe, "unet") else latent.dtype)
        texts = {name: [*self.arguments[name]] for name in _TEXTS if name in self.arguments}
        with self.unprompted.read():
            pipe(**{**self.arguments, **texts}, latents=shown)
        output = scheduler.output
        if output.shape != shown.shape:
            shapes = f"{tuple(output.shape)} for a latent of {tuple(shown.shape)}"
            raise AmdmError(f"{self.prefix} predicts {shapes}; choose a model with the main one's latents.")
        both = Prediction(output, self.unprompted.base(output))
        return both.changed(lambda part: unpacked(pipe, part, *self.sides).to(latent).reshape(latent.shape))

    def _encode(self, *args: Any, **kwargs: Any) -> Any:
        """Encode texts once: each evaluation calls `encode_prompt` in the same order, and with the same texts."""
        self.calls += 1
        if self.calls > len(self.encoded):
            self.encoded.append(self.pipeline.encode_prompt(*args, **kwargs))
        return self.encoded[self.calls - 1]

    def refuse_nan(self) -> None:
        """Raise AmdmError: an evaluation's answer was not finite (`CoRun.on_nan`)."""
        raise AmdmError(f"{self.prefix} gave NaN; load it with torch_dtype=torch.bfloat16 or torch.float32.")
