"""A sampler's call as AMDM sees it: its arguments by name, its noise levels, and each evaluation of its denoiser.

Known kinds of samplers are those that are given `sigmas` (k-diffusion), `sigma_min` and `sigma_max` (DPM fast, DPM
adaptive), or `timesteps` (the WebUI's DDIM family: variance-preserving latents, the model returns eps and offers
`inner_model.inner_model.alphas_cumprod`, as those samplers themselves expect).
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .levels import Level, variance_exploding, variance_preserving
from .readings import Reading


class Grid(NamedTuple):
    """The noise levels that a sampler's steps end at, from the highest down.

    level(sigma): the level that the sampler calls by this number. predicts_noise: the model returns eps. starts: the
    ratios that the steps start from, where they are not those that the steps before ended at. counter: for samplers
    that put as many evaluations as there are steps at levels of their own.
    """

    levels: list[Level]
    level: Callable[[float], Level] = variance_exploding
    predicts_noise: bool = False
    starts: Sequence[float] = ()
    counter: Iterator[int] | None = None

    @property
    def steps(self) -> int:
        """The number of steps."""
        return len(self.levels) - 1

    def step(self, level: Level) -> int:
        """Return the step that an evaluation at this level belongs to."""
        if self.counter is not None:
            return next(self.counter)
        starts = self.starts or [each.ratio for each in self.levels[:-1]]
        k = max(sum(start >= level.ratio for start in starts) - 1, 0)
        # in half precision a step's level may be rounded up
        rounding = min(3e-3 * level.ratio, abs(starts[k] - level.ratio))
        return k + 1 if k + 1 < len(starts) and level.ratio - starts[k + 1] < rounding else k

    def denoised(self, x: Tensor, output: Tensor, level: Level) -> Tensor:
        """Return the denoised latent in the model's output for the latent `x`, both (batch, ...)."""
        return (x - level.sigma * output) / level.alpha if self.predicts_noise else output

    def changed(self, output: Tensor, change: Tensor, level: Level) -> Tensor:
        """Add a change of the denoised latent to the model's output, both (batch, ...).

        The result is always a new tensor: LCM writes on what it gets.
        """
        if self.predicts_noise:
            change = -level.alpha / level.sigma * change
        return (output + change).to(output.dtype)


class Call:
    """A call of a sampler whose arguments are known by name, however they were given."""

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
        """Return an argument by name, or `default` where it is missing or None."""
        value = self.named.get(name)
        return default if value is None else value

    @property
    def is_noisy(self) -> bool:
        """True where the sampler adds noise in every step."""
        return "noise_sampler" in self.named and self.get("eta", 1.0) != 0

    def levels(self) -> tuple[Any, Any]:
        """Return the sigmas and the timesteps, either of which may be None.

        Where the function names neither, levels that fall are sigmas, and levels that rise timesteps.
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


def grid_of(call: Call, nominal_steps: int, level_of: Callable[[float], Level] = variance_exploding) -> Grid:
    """Read the noise levels of a call; TypeError where it is of no known kind.

    level_of: the level that one of its sigmas means.
    """
    sigmas, timesteps = call.levels()
    if timesteps is not None:
        logs = call.model.inner_model.inner_model.alphas_cumprod.double().log().tolist()

        def level(timestep: float) -> Level:
            low = min(int(timestep), len(logs) - 2)
            return variance_preserving(math.exp(logs[low] + (timestep - low) * (logs[low + 1] - logs[low])))

        levels = [level(timestep) for timestep in reversed(timesteps.tolist())]
        if "is_img2img" in call.named:  # UniPC takes of the timesteps their number and the first alone
            return Grid([*levels, Level(1.0, 0.0)], level, predicts_noise=True, counter=itertools.count())
        return Grid(levels, level, predicts_noise=True)
    if sigmas is not None:
        values = sigmas.tolist()
        # churn raises a step's level before it is evaluated
        churn = 1 + min(call.get("s_churn", 0.0) / max(len(values) - 1, 1), math.sqrt(2) - 1)
        low, high = call.get("s_tmin", 0.0), call.get("s_tmax", math.inf)
        starts = [level_of(value * churn if low <= value <= high else value).ratio for value in values[:-1]]
        return Grid([*map(level_of, values)], level_of, starts=starts)
    if call.get("sigma_min") is None or call.get("sigma_max") is None:
        name = getattr(call.func, "__name__", repr(call.func))
        raise TypeError(f"{name} is given no sigmas, timesteps, or sigma_min and sigma_max, so AMDM cannot follow it")
    top, bottom = math.log(call.get("sigma_max")), math.log(call.get("sigma_min"))
    parts = call.get("n", nominal_steps)
    levels = [level_of(math.exp(top + (bottom - top) * k / parts)) for k in range(parts + 1)]
    # DPM fast makes as many evaluations as it is given steps, at levels of its own
    return Grid(levels, level_of, counter=itertools.count() if "n" in call.named else None)


@contextmanager
def observed(model: Any, prediction: Callable[[Tensor, Reading, Tensor], Tensor | None]) -> Iterator[Any]:
    """Yield `model`, or a stand-in for it, with `prediction` behind each of its calls.

    prediction(x, sigma, output): the model's latent (batch, ...), noise level and answer; what it returns, unless None,
    replaces the answer. The noise level is on its way from the device since before the call.
    """
    if not isinstance(model, torch.nn.Module):
        yield _StandIn(model, prediction)
        return
    parameters = inspect.signature(model.forward)
    sent: list[tuple[Tensor, Reading]] = []

    def before(module: torch.nn.Module, args: tuple, *kwargs: dict[str, Any]) -> None:
        _, sigma = _first_two(parameters, args, *kwargs)
        sent[:] = [(sigma, _reading(sigma))]

    def after(module: torch.nn.Module, args: tuple, *rest: Any) -> Tensor | None:
        # without the keywords where another thread is just calling a hook that is being removed
        *kwargs, output = rest
        x, sigma = _first_two(parameters, args, *kwargs)
        of, reading = sent[0] if sent else (None, None)
        # another thread's call may have come between
        return prediction(x, reading if reading is not None and of is sigma else _reading(sigma), output)

    handles = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def _reading(sigma: Tensor) -> Reading:
    return Reading(sigma.flatten()[0])


def _first_two(signature: inspect.Signature, args: tuple, kwargs: dict[str, Any] | None = None) -> Sequence[Tensor]:
    """Return the latent and the noise level of a call, by place or by name."""
    return args[:2] if len(args) > 1 else [*signature.bind(*args, **(kwargs or {})).arguments.values()][:2]


class _StandIn:
    """A callable that is no torch module, with `prediction` behind its calls; everything else is the callable's own."""

    def __init__(self, model: Any, prediction: Callable[[Tensor, Reading, Tensor], Tensor | None]) -> None:
        vars(self).update(_model=model, _prediction=prediction)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        x, sigma = _first_two(inspect.signature(self._model), args, kwargs)
        reading = _reading(sigma)
        output = self._model(*args, **kwargs)
        changed = self._prediction(x, reading, output)
        return output if changed is None else changed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)
