"""A co-model that is a pipeline, called whole for each evaluation.

So its texts, guidance, adapters and offloading are its own matter. A call gets a latent and makes one step, whose
prediction is kept. Its texts are encoded once in a run.
"""

from __future__ import annotations

import copy
import inspect
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...comodels.mixing import SlotRun, co_run
from ...core.arguments import CoRun
from ...errors import AmdmError
from ...files.pictures import as_text
from ...settings import CoModel
from ...settings.schema import read
from .latents import packed, space_of, unpacked
from .schedules import Training

_MIXED = ("gamma", "gamma_end", "eta", "region", "mask", "feather", "noise")
"""The settings of a co-model that do not depend on how a host loads and calls it."""
_TEXTS = ("prompt", "negative_prompt")
_INHERITED = (*_TEXTS, "guidance_scale", "true_cfg_scale")
"""The arguments that a co-model's call has in common with the main one's, unless it is given others."""


class CoPipeline:
    """A pipeline that is run alongside the main one."""

    def __init__(self, pipeline: Any, prompt: Any = None, **by_name: Any) -> None:
        """Check the settings.

        pipeline: from text to image, with the main one's latents; it may be the main one itself. prompt: one for all
        pictures, or one for each prompt of the main call. by_name: settings of a co-model, as in the README (gamma,
        gamma_end, eta, region, mask as a PIL image, feather, noise), and further arguments of the pipeline's call
        (negative_prompt, guidance_scale, true_cfg_scale, ...). Prompts and guidance that are not given are the main
        call's.
        """
        slot = {name: by_name.pop(name) for name in _MIXED if name in by_name}
        if "mask" in slot:
            slot["mask"] = as_text(slot["mask"], "mask")
        self.slot = read(CoModel, slot, f"the co-model {type(pipeline).__name__}")
        self.pipeline, self.arguments = pipeline, {"prompt": prompt, **by_name}

    def check(self, main: Any, number: int) -> None:
        """Raise AmdmError if the pipeline cannot be run alongside `main`. number: the co-model's, from 1."""
        pipe, taken = self.pipeline, inspect.signature(self.pipeline.__call__).parameters
        prefix, space, of_main = f"AMDM co-model {number}: {type(pipe).__name__}", space_of(pipe), space_of(main)
        unet = getattr(pipe, "unet", None)
        needs_pictures = "strength" in taken or (
            unet is not None and unet.config.in_channels != unet.config.out_channels
        )
        if needs_pictures or "latents" not in taken or not hasattr(pipe, "encode_prompt"):
            remedy = "give a model that does, by AutoPipelineForText2Image.from_pipe(pipeline)"
            raise AmdmError(f"{prefix} does not draw from text alone; {remedy}.")
        if space and of_main and space != of_main:
            others = f"other latents than the main {type(main).__name__} (their VAEs differ)"
            raise AmdmError(f"{prefix} has {others}; choose a model of the main one's kind.")
        for name in self.arguments.keys() - taken.keys():
            raise AmdmError(f"{prefix} has no argument {name}; leave it out.")

    def co_run(self, number: int, run: Run) -> CoRun:
        """Return the co-model of a run."""
        evaluations = _Evaluations(self, f"AMDM co-model {number}: {type(self.pipeline).__name__}", run)
        highest, form = evaluations.training.domain
        given, (height, width) = run.given.get("generator"), run.x.shape[-2:]
        generators = [given] if isinstance(given, torch.Generator) else given or []
        seeds = [one.initial_seed() + more for one in generators for more in range(len(run.x) // len(generators))]
        seeds = seeds or [secrets.randbelow(2**63) for _ in run.x]
        model = SlotRun(evaluations.denoised, highest, None, evaluations.refuse_nan, form)
        return co_run(number, self.slot, model, seeds, (height, width), run.training.domain[0])


@dataclass
class Run:
    """A call of the main pipeline: its arguments, the model's training, the first latent, and the current timestep."""

    given: Mapping[str, Any]
    training: Training
    x: Tensor
    timestep: Any = None


class _OneStep:
    """The scheduler of a pipeline that makes one step: it keeps what the model predicts, and changes no latent."""

    order, init_noise_sigma = 1, 1.0

    def __init__(self, own: Any) -> None:
        """own: the pipeline's scheduler, for everything that is not the step."""
        self.own, self.timesteps, self.output = own, torch.zeros(1), torch.zeros(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["own"], name)

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


class _Texts:
    """A pipeline's `encode_prompt`. Each evaluation calls it in the same order, and with the same texts."""

    def __init__(self, encode: Callable[..., Any]) -> None:
        self.encode, self.encoded, self.calls = encode, list[Any](), 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls > len(self.encoded):
            self.encoded.append(self.encode(*args, **kwargs))
        return self.encoded[self.calls - 1]


class _Evaluations:
    """The evaluations of a co-model in one run. prefix: begins an error."""

    def __init__(self, co_model: CoPipeline, prefix: str, run: Run) -> None:
        own = co_model.pipeline
        self.prefix, self.run, self.training = prefix, run, Training.of(own.scheduler)
        self.scheduler, self.texts = _OneStep(own.scheduler), _Texts(own.encode_prompt)
        # a copy with the same models: the pipeline itself may be in the middle of a call
        self.pipeline = copy.copy(own)
        vars(self.pipeline).update(scheduler=self.scheduler, encode_prompt=self.texts)
        self.pipeline.set_progress_bar_config(disable=True)
        self.sides = [side * own.vae_scale_factor for side in run.x.shape[-2:]]
        self.arguments = self._arguments(co_model.arguments)

    def _arguments(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of its calls, but for the latent. own: those that it was given."""
        taken = inspect.signature(self.pipeline.__call__).parameters
        given = {name: self.run.given.get(name) for name in _INHERITED if name in taken}
        both = {**given, **{name: value for name, value in own.items() if value is not None}}
        each = self.run.given.get("num_images_per_prompt") or 1
        count = len(self.run.x) // each
        for name in _TEXTS:
            text = None if "prompt_embeds" in own else both.get(name)
            both[name] = [text] * count if isinstance(text, str) else text and list(text)
            if text and len(both[name]) != count:
                raise AmdmError(f"{self.prefix} needs a {name} for each of the main call's {count}, or one for all.")
        if both["prompt"] is None and "prompt_embeds" not in own:
            raise AmdmError(f"{self.prefix} has no prompt; give CoPipeline(pipeline, prompt).")
        both |= {"height": self.sides[0], "width": self.sides[1], "num_images_per_prompt": each}
        both |= {"num_inference_steps": 1, "output_type": "latent", "return_dict": False}
        return {name: value for name, value in both.items() if value is not None}

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the denoised latent: see `CoRun.denoise`."""
        number, main = float(sigma[0]), self.run.training
        level, timestep = self.training.shown(number)
        # where two models were trained on the same levels, rounding must not make their timesteps differ
        alike = main[1:] == self.training[1:]
        latent = x * (level.sigma / number)
        output = self._output(latent, torch.as_tensor(self.run.timestep if alike else timestep).reshape(1))
        of_latent, of_output = self.training.parts(level)
        return of_latent * latent + of_output * output

    def _output(self, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the pipeline's guided network predicts for a latent."""
        self.scheduler.timesteps, self.texts.calls = timesteps, 0
        unet, shown = getattr(self.pipeline, "unet", None), packed(self.pipeline, latent)
        # pipelines with a UNet take latents as they are, the others convert them
        shown = shown if unet is None else shown.to(unet.dtype)
        # some pipelines write into their lists of texts
        arguments = {name: list(value) if name in _TEXTS else value for name, value in self.arguments.items()}
        self.pipeline(**arguments, latents=shown)
        output = self.scheduler.output
        if output.shape != shown.shape:
            shapes = f"{tuple(output.shape)} for a latent of {tuple(shown.shape)}"
            raise AmdmError(f"{self.prefix} predicts {shapes}; choose a model with the main one's latents.")
        return unpacked(self.pipeline, output, *self.sides).to(latent).reshape(latent.shape)

    def refuse_nan(self) -> None:
        """Raise AmdmError: an evaluation's answer was not finite (`CoRun.on_nan`)."""
        raise AmdmError(f"{self.prefix} gave NaN; load it with torch_dtype=torch.bfloat16 or torch.float32.")
