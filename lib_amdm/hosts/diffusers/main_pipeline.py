"""A pipeline whose early steps are mixed: `amdm` around its scheduler's steps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.arguments import AUTO, Mixing, Pass
from ...core.sampling import amdm
from ...errors import AmdmError
from .co_pipeline import CoPipeline, Run
from .latents import packed, unpacked
from .schedules import Training, adds_noise, check_scheduler, levels_of, position

DEFAULT = Mixing(evaluations=AUTO)


def amdm_pipeline(
    pipe: Any, co_models: Sequence[CoPipeline], mixing: Mixing = DEFAULT, **by_name: Any
) -> Callable[..., Any]:
    """Return a function that is called as `pipe` is, and draws with other pipelines in the first steps (Algorithm 2).

    pipe: any pipeline that draws in latents with a scheduler. co_models: the others, in slot order. by_name: fields of
    `mixing`, such as steps=8.

    The scheduler is changed during a call alone, and not at all with no co-model, every gamma 0 or no step to mix.
    AmdmError says in one sentence what cannot be run together.
    """
    mixing = replace(mixing, **by_name)
    running = {number: co for number, co in enumerate(co_models, 1) if co.slot.speaks or mixing.force}
    for each in (pipe, *(co.pipeline for co in running.values())):
        if not hasattr(each, "vae_scale_factor") or not hasattr(each, "scheduler"):
            raise AmdmError(f"AMDM cannot follow {type(each).__name__}; choose a pipeline that draws in latents.")
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
        with _replaced(pipe.scheduler, step=steps.step, add_noise=steps.noised, scale_noise=steps.noised):
            result = pipe(*args, **kwargs)
        # the sampler reports what is still pending
        next(steps.sampler, None)
        return result

    return together


@contextmanager
def _replaced(scheduler: Any, **around: Callable[..., Any]) -> Iterator[None]:
    """Make a context in which methods of a scheduler are other functions, which get the method first."""
    own = dict(vars(scheduler))
    for name in around:
        if method := getattr(scheduler, name, None):
            # pipelines read the signature of a step
            setattr(scheduler, name, functools.wraps(method)(functools.partial(around[name], method)))
    try:
        yield
    finally:
        for name in around:
            vars(scheduler).pop(name, None)
        vars(scheduler).update({name: own[name] for name in around if name in own})


def _sampler(model: Callable[..., Tensor], x: Tensor, sigmas: Tensor, eta: float) -> Generator[Any, Any, None]:
    """Answer each latent, with its level and denoised latent, that is sent here with the denoised latent to use.

    x: the first latent. sigmas: the numbers of its levels. eta: how much noise the scheduler adds in each step.
    """
    sent = yield
    while sent is not None:
        sent = yield model(*sent)


class _Steps:
    """The scheduler's steps in one call of a pipeline, as the steps of a sampler.

    The sampler's number for a noise level is how many steps are left at it, which no rounding can confuse.
    """

    def __init__(
        self, pipe: Any, co_models: Mapping[int, CoPipeline], mixing: Mixing, given: Mapping[str, Any]
    ) -> None:
        """given: the arguments of the call."""
        self.pipe, self.co_models, self.mixing, self.given = pipe, co_models, mixing, given
        self.training = Training.of(pipe.scheduler)
        self.clean: Tensor | None = None
        self.run: Run | None = None
        self.sampler: Any = iter(())

    def noised(self, method: Callable[..., Tensor], clean: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Keep the clean latent that the first one is made of (img2img)."""
        if self.run is None:
            self.clean = clean
        return method(clean, *args, **kwargs)

    def step(
        self,
        method: Callable[..., Any],
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        *args: Any,
        **further: Any,
    ) -> Any:
        """Make the scheduler's step with the joint prediction."""
        scheduler, wide = self.pipe.scheduler, torch.promote_types(sample.dtype, torch.float32)
        sides = self.given.get("height"), self.given.get("width")
        x, predicted = (unpacked(self.pipe, tensor, *sides).to(wide) for tensor in (sample, model_output))
        place = position(scheduler, timestep)
        if self.run is None:
            self.run, self.levels = Run(self.given, self.training, x), levels_of(scheduler)
            self.left = torch.arange(len(self.levels), dtype=torch.float64).flip(0)
            self.sampler = self._begun(self.run, place, adds_noise(scheduler, further))
        self.run.timestep = timestep
        of_latent, of_output = self.training.parts(self.levels[place])
        denoised = of_latent * x + of_output * predicted
        joint = self.sampler.send((x, self.left[place], denoised))
        if joint is not denoised:
            change = packed(self.pipe, (joint - denoised) / of_output)
            model_output = (model_output.to(wide) + change.reshape(sample.shape)).to(model_output.dtype)
        return method(model_output, timestep, sample, *args, **further)

    def _begun(self, run: Run, place: int, is_noisy: bool) -> Generator[Any, Any, Any]:
        """Return the sampler, which begins at a place in the schedule and waits for its first latent."""
        co_runs = [co.co_run(number, run) for number, co in self.co_models.items()]
        init = None if self.clean is None else self.clean.reshape(run.x.shape)
        in_pass = Pass(init=init, level_of=lambda left: self.levels[-1 - round(left)])
        sampler = amdm(_sampler, co_runs, self.mixing, in_pass)
        begun = sampler(lambda x, sigma, denoised: denoised, run.x, self.left[place:], float(is_noisy))
        next(begun)
        return begun
