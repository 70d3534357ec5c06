"""A sampler's call as AMDM sees it: its arguments by name, its noise levels, and each evaluation of its denoiser.

Samplers are supported that take `sigmas` (k-diffusion), `sigma_min` and `sigma_max` (DPM fast, DPM
adaptive), or `timesteps` (the WebUI's DDIM family: variance-preserving latents, the model returns eps and offers
`inner_model.inner_model.alphas_cumprod`, as those samplers themselves expect).
"""

from __future__ import annotations

import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .arguments import check_falling
from .levels import Level, variance_exploding, variance_preserving
from .readings import Reading

ROUNDINGS = 8
"""The number of roundings by which a sampler's own arithmetic may miss the level of a step."""


class Grid(NamedTuple):
    """The noise levels that a sampler's steps end at, from the highest down.

    starts: the numbers by which the sampler calls the levels that its steps start from; churn raises them above those
        that the steps before ended at.
    level(number): the level of such a number.
    kind: the schedule's dtype.
    predicts_noise: the model returns eps.
    counter: for samplers that make one evaluation per step, at their own levels.
    """

    levels: list[Level]
    starts: Sequence[float]
    level: Callable[[float], Level] = variance_exploding
    kind: torch.dtype = torch.float32
    predicts_noise: bool = False
    counter: Iterator[int] | None = None

    @property
    def steps(self) -> int:
        """The number of steps."""
        return max(len(self.levels) - 1, 0)

    def step(self, sigma: Reading, done: int) -> tuple[int, Level]:
        """Return the step that an evaluation belongs to, and its level.

        sigma: the sampler's number for its level. done: the steps so far, which distinguish steps of one number in half
        precision. A level at no step's start lies between two levels, and belongs to the step above.
        """
        number = sigma.value()
        if self.counter is not None:
            return next(self.counter), self.level(number)
        coarse = max(self.kind, _kind(sigma.number), key=lambda kind: torch.finfo(kind).eps)
        starts = torch.tensor(self.starts, dtype=torch.float64).to(coarse).tolist()
        nearest = min(starts, key=lambda start: abs(start - number))
        gap = min((abs(start - nearest) for start in starts if start != nearest), default=math.inf)
        if abs(nearest - number) <= min(ROUNDINGS * torch.finfo(coarse).eps * abs(number), gap / 4):
            alike = [k for k, start in enumerate(starts) if start == nearest]
            k = min(max(alike[0], done), alike[-1])
            return k, self.level(self.starts[k])
        return max(sum(start >= number for start in starts) - 1, 0), self.level(number)

    def denoised(self, x: Tensor, output: Tensor, level: Level) -> Tensor:
        """Return the denoised latent in the model's output for the latent `x`, both (batch, ...)."""
        return (x - level.sigma * output) / level.alpha if self.predicts_noise else output

    def changed(self, output: Tensor, change: Tensor, level: Level) -> Tensor:
        """Add a change of the denoised latent to the model's output, both (batch, ...).

        The result is always a new tensor: LCM writes into it.
        """
        if self.predicts_noise:
            change = -level.alpha / level.sigma * change
        return (output + change).to(output.dtype)


class SamplerCall:
    """A call of a sampler with its arguments by name, however they were passed."""

    def __init__(self, func: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
        self.func, self.args, self.kwargs = func, args, kwargs
        bound = inspect.signature(func).bind(*args, **kwargs)
        bound.apply_defaults()
        self.named = dict(bound.arguments)
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                self.named.update(self.named.pop(name))
        self.model = args[0] if args else self.named["model"]
        self.x = args[1] if len(args) > 1 else self.named["x"]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument by name, or `default` if it is missing or None."""
        value = self.named.get(name)
        return default if value is None else value

    @property
    def is_noisy(self) -> bool:
        """True if this call of the sampler adds noise: ancestral noise, or churn in half its steps."""
        eta = self.get("eta", 1.0 if "noise_sampler" in self.named else 0.0)
        return bool(self.get("s_noise", 1.0)) and (eta != 0 or self._churns)

    @property
    def churn_range(self) -> tuple[float, float]:
        """The lowest and the highest sigma at which s_churn acts."""
        return self.get("s_tmin", 0.0), self.get("s_tmax", math.inf)

    @property
    def _churns(self) -> bool:
        low, high = self.churn_range
        starts = self.get("sigmas", ())[:-1]
        return self.get("s_churn", 0.0) > 0 and 2 * sum(bool(low <= sigma <= high) for sigma in starts) >= len(starts)

    def levels(self) -> tuple[Any, Any]:
        """Return the sigmas and the timesteps, either of which may be None.

        If the function names neither, falling levels are sigmas, and rising levels timesteps.
        """
        sigmas, timesteps = self.get("sigmas"), self.get("timesteps")
        third = self.args[2] if len(self.args) > 2 else None
        if sigmas is None and timesteps is None and isinstance(third, Tensor) and third.ndim == 1:
            return (third, None) if third[0] >= third[-1] else (None, third)
        return sigmas, timesteps

    def on(self, model: Any) -> Any:
        """Call the sampler on `model`, or a stand-in for it."""
        if self.args:
            return self.func(model, *self.args[1:], **self.kwargs)
        return self.func(**{**self.kwargs, "model": model})


def grid_of(call: SamplerCall, nominal_steps: int, level_of: Callable[[float], Level] = variance_exploding) -> Grid:
    """Read the noise levels of a call; TypeError if its kind is not supported.

    level_of: the level that one of its sigmas means.
    """
    sigmas, timesteps = call.levels()
    if timesteps is not None:
        # on the CPU before it is widened: not every device has float64
        logs = call.model.inner_model.inner_model.alphas_cumprod.cpu().double().log().tolist()

        def level(timestep: float) -> Level:
            low = min(int(timestep), len(logs) - 2)
            return variance_preserving(math.exp(logs[low] + (timestep - low) * (logs[low + 1] - logs[low])))

        numbers = timesteps.tolist()[::-1]
        check_falling("timesteps, from the last to the first,", numbers)
        levels = [level(timestep) for timestep in numbers]
        if "is_img2img" in call.named:  # UniPC takes of the timesteps their number and the first alone
            return Grid([*levels, Level(1.0, 0.0)], [], level, predicts_noise=True, counter=itertools.count())
        return Grid(levels, numbers[:-1], level, predicts_noise=True)
    if sigmas is not None:
        sigmas = torch.as_tensor(sigmas)
        values = sigmas.tolist()
        check_falling("sigmas", values)
        # churn raises a step's level before it is evaluated
        churn = 1 + min(call.get("s_churn", 0.0) / max(len(values) - 1, 1), math.sqrt(2) - 1)
        low, high = call.churn_range
        starts = [value * churn if low <= value <= high else value for value in values[:-1]]
        return Grid([*map(level_of, values)], starts, level_of, _kind(sigmas))
    if call.get("sigma_min") is None or call.get("sigma_max") is None:
        name = getattr(call.func, "__name__", repr(call.func))
        raise TypeError(f"{name} is given no sigmas, timesteps, or sigma_min and sigma_max, so AMDM cannot follow it")
    top, bottom = math.log(call.get("sigma_max")), math.log(call.get("sigma_min"))
    parts = call.get("n", nominal_steps)
    values = [math.exp(top + (bottom - top) * k / parts) for k in range(parts + 1)]
    # DPM fast makes one evaluation per step, at its own levels
    counter = itertools.count() if "n" in call.named else None
    return Grid([*map(level_of, values)], values[:-1], level_of, counter=counter)


def _kind(numbers: Tensor) -> torch.dtype:
    return numbers.dtype if numbers.is_floating_point() else torch.float32


class StandIn:
    """A stand-in for a model during one call of a sampler: `prediction` follows each evaluation, `before` precedes it.

    prediction(x, sigma, output): the model's latent (batch, ...), noise level and output. Unless it returns None, its
    result replaces the output. before(x, sigma): None if nothing precedes the evaluations. The copy of the noise level
    from the device starts before the evaluation. Other uses of the model, in this thread or another, are not affected;
    evaluations of this call are, in any thread.
    """

    def __init__(
        self,
        model: Any,
        prediction: Callable[[Tensor, Reading, Tensor], Tensor | None],
        before: Callable[[Tensor, Reading], None] | None = None,
    ) -> None:
        called = model.forward if isinstance(model, torch.nn.Module) else model
        lock = threading.Lock()
        vars(self).update(_model=model, _prediction=prediction, _before=before, _called=called, _lock=lock)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        x, sigma = args[:2] if len(args) > 1 else self._named(*args, **kwargs)
        reading = Reading(sigma.flatten()[0] if isinstance(sigma, Tensor) else torch.tensor(sigma, dtype=torch.float64))
        if self._before is not None:
            with self._lock, torch.no_grad():
                self._before(x, reading)
        output = self._model(*args, **kwargs)
        with self._lock, torch.no_grad():
            changed = self._prediction(x, reading, output)
        return output if changed is None else changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._model, name)

    def _named(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        """Return the latent and the noise level of a call that gives them by name."""
        return [*inspect.signature(self._called).bind(*args, **kwargs).arguments.values()][:2]
