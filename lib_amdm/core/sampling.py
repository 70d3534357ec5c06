"""AMDM inside the denoiser: `amdm` makes a sampler's denoiser return the joint prediction of several models.

The sampler itself runs whole, in one call. In the early steps the denoiser gives it the prediction whose Euler step
ends on the aggregated latent, and the sampler treats that like any prediction. `sampler_call` says which samplers can
be followed.
"""

from __future__ import annotations

import functools
import inspect
import math
from bisect import bisect_right
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from . import arguments
from .accelerator import carried
from .aggregation import aggregate
from .arguments import CoRun, Mixing, Pass, Prediction
from .co_model import LastAnswer, RunningCoModel
from .levels import Level, euler_step, posterior_mean, prediction_change
from .plan import ESTIMATE_EVALUATIONS, EVALUATIONS, NOISY_EVALUATIONS, automatic_steps, spread
from .readings import Reading
from .sampler_call import Grid, SamplerCall, StandIn, grid_of
from .strength import strengthened

LOOKED_AHEAD = 2
"""The number of steps that a sampler may look ahead, and come back, within one step (Heun++)."""
_OF_MIXING = {option.name for option in fields(Mixing)}


class NothingMixedError(ValueError):
    """The sampler has ended without a mixed step."""


def amdm(
    func: Callable[..., Any],
    co_models: Sequence[CoRun],
    mixing: Mixing = Mixing(),
    in_pass: Pass = Pass(),
    **by_name: Any,
) -> Callable[..., Any]:
    """Return a sampler like `func` that aggregates models in its early steps (Algorithm 2).

    func: a sampler's function.
    co_models: the other models, in slot order.
    mixing, in_pass: how the models are mixed, and the pass of the sampler.
    by_name: fields of these two: amdm(func, co_models, steps=8) is amdm(func, co_models, Mixing(steps=8)).

    With no step to aggregate (K = 0, start >= K, or a call without steps), no co-model, or every gamma 0, `func` is
    called as it is, on the arguments as they are. ValueError names an argument that cannot be, here or when the sampler
    is called, and a sampler that did not call its model in the first K steps.
    """
    mixing = replace(mixing, **{name: value for name, value in by_name.items() if name in _OF_MIXING})
    in_pass = replace(in_pass, **{name: value for name, value in by_name.items() if name not in _OF_MIXING})
    arguments.check_sampler(func)
    arguments.check_co_models(co_models, mixing)
    running = [co for co in co_models if co.has_share or mixing.force]

    @functools.wraps(func)
    @torch.no_grad()
    def sample(*args: Any, **kwargs: Any) -> Any:
        if not running or mixing.is_empty:
            return func(*args, **kwargs)
        call = SamplerCall(func, args, kwargs)
        grid = grid_of(call, in_pass.nominal_steps, in_pass.level_of)
        most = automatic_steps(grid.levels, call.x.shape[-2:]) if isinstance(mixing.steps, str) else mixing.steps
        steps = min(most, grid.steps)
        if steps <= mixing.start or not call.x.numel():
            return func(*args, **kwargs)
        if any(co.sigma_max is None and math.isinf(co.form(grid.levels[0]).sigma) for co in running):
            raise ValueError("a variance-exploding co-model of a flow model needs its sigma_max")
        sees_estimate = any(co.sees_estimate for co in running)
        automatic = NOISY_EVALUATIONS if call.is_noisy else ESTIMATE_EVALUATIONS if sees_estimate else EVALUATIONS
        evaluations = automatic if isinstance(mixing.evaluations, str) else mixing.evaluations
        models = [
            RunningCoModel(co if co.region is None else replace(co, region=co.region.to(call.x.device)))
            for co in running
        ]
        early = _EarlySteps(
            grid,
            models,
            steps,
            mixing,
            in_pass,
            plan=spread(grid.levels, steps, evaluations),
            shape=call.x.shape,
            offsets=[model.first_offset(call.x, grid.levels[0], in_pass.init) for model in models],
        )
        begin = early.begin if any(model.begins_early for model in models) else None
        result = call.on(StandIn(call.model, early.prediction, begin))
        if inspect.isgenerator(result):
            return _to_its_end(result, early)
        early.finish()
        return result

    return sample


@torch.no_grad()
def _to_its_end(sampler: Generator[Any, Any, Any], early: _EarlySteps) -> Generator[Any, Any, Any]:
    """Run a sampler that yields its steps one by one."""
    result = yield from sampler
    early.finish()
    return result


@dataclass(eq=False)
class _EarlySteps:
    """The first K steps of one run. `prediction` is called after each of the main model's evaluations.

    `begin` is called before each if a co-model begins early.
    """

    grid: Grid
    models: Sequence[RunningCoModel]
    steps: int
    """K, the number of steps that are mixed in this run."""
    mixing: Mixing
    in_pass: Pass
    plan: Sequence[int]
    """The steps in which co-models are evaluated."""
    shape: torch.Size
    """The sides of the latent."""
    offsets: Sequence[Tensor | float]
    """Each co-model's latent minus the main one's."""

    changes: dict[int, Tensor] = field(default_factory=dict)
    """The changes of the prediction, by step, while the sampler may come back to it."""
    settled: set[int] = field(default_factory=set)
    """The steps that were mixed."""
    last_answers: list[LastAnswer] = field(default_factory=list)
    """Each co-model's last evaluation."""
    state_keys: list[Hashable] = field(default_factory=list)
    finite: list[tuple[CoRun, Reading]] = field(default_factory=list)
    """For each co-model's output, a reading of whether it was finite."""
    planned: int = 0
    """The number of evaluations of the plan that have been made."""
    over: bool = False
    """True once the main model goes on alone."""
    place: tuple[int, Level] | None = None
    """The step and the level of the evaluation that has begun."""
    begun: dict[int, Callable[[], Prediction]] = field(default_factory=dict)
    """The evaluations that have begun, by their co-model's index: each returns its prediction."""

    def begin(self, x: Tensor, sigma: Reading) -> None:
        """Begin evaluations of co-models on other devices before the main model's. x, sigma: as in `prediction`."""
        self.place, self.begun = None, {}
        if self.over or x.shape != self.shape:
            return
        self.place = k, level = self.grid.step(sigma, max(self.settled, default=-1) + 1)
        if k >= self.steps or k in self.changes or not self.grid.levels[k + 1].ratio < level.ratio:
            return
        try:
            if self.in_pass.still_mixing():
                with self.in_pass.ahead():
                    self._begin(k, x, level)
        except Exception as error:
            if not self.in_pass.survives(error):
                raise
            self._end()

    def _begin(self, k: int, x: Tensor, level: Level) -> None:
        state_keys = self._state_keys(level)
        for index, (model, offset) in enumerate(zip(self.models, self.offsets)):
            if model.begins_early and (self._is_due(k) or state_keys[index] != self.state_keys[index]):
                latent = (x.to(_wide(x)) + offset).to(x.dtype)
                self.begun[index] = model.begun(latent, level)

    def _end(self) -> None:
        """Let the main model go on alone."""
        self.over = True
        self.changes.clear()
        self.begun.clear()

    def prediction(self, x: Tensor, sigma: Reading, output: Tensor) -> Tensor | None:
        """Return what the sampler gets instead of `output`; None leaves it.

        x: the latent the main model was shown, (batch, ...). sigma: its noise level, a number on its way from the
        device. output: the main model's own answer, of x's shape: a denoised latent, or noise if the grid
        `predicts_noise`. Returns a tensor like `output`.

        The first evaluation in a step settles the change of its prediction; later ones in the same step, at the step's
        level or between two levels, are changed as much. A sampler that has gone on and comes back later (Restart)
        settles the step anew, from what was kept last. Some samplers also show a smaller latent: the answer to that
        stays as it is.
        """
        if self.over or x.shape != self.shape:
            return None
        self.report_nan()
        k, level = self.place or self.grid.step(sigma, max(self.settled, default=-1) + 1)
        self.place = None
        self.changes = {step: change for step, change in self.changes.items() if step >= k - LOOKED_AHEAD}
        if k >= self.steps:
            return None
        if k not in self.changes:
            try:
                change = self._change(k, x, output, level)
            except Exception as error:
                if not self.in_pass.survives(error):
                    raise
                change = None
            if change is None:
                self._end()
                return None
            self.changes[k] = change
            if k not in self.settled:
                self.settled.add(k)
                self.in_pass.on_mixed(len(self.settled), self.steps)
        return self.grid.changed(output, self.changes[k], level)

    def _change(self, k: int, x: Tensor, output: Tensor, level: Level) -> Tensor | None:
        """Return the change of step k's denoised latent, of x's shape; None once the main model goes on alone.

        x, output: as in `prediction`.
        level: the noise level at which the step is evaluated.

        Computed in float32 or wider, and returned in that type.
        """
        if not self.in_pass.still_mixing():
            return None
        wide = _wide(x)
        x, kind, level_next = x.to(wide), x.dtype, self.grid.levels[k + 1]
        denoised = self.grid.denoised(x, output.to(wide), level)
        if not level_next.ratio < level.ratio:
            return torch.zeros_like(denoised)
        base = self.in_pass.base() if self.in_pass.guidance > 1 else None
        main = Prediction(denoised, None if base is None else self.grid.denoised(x, base.to(denoised), level))
        latents = [x, *(x + offset for offset in self.offsets)]
        self._evaluate(k, [latent.to(kind) for latent in latents[1:]], main, level)
        self.report_nan()
        if not self.in_pass.still_mixing():
            return None
        runs, within = [model.run for model in self.models], self.in_pass.within
        guided = [main, *(answer.now(run, main) for run, answer in zip(runs, self.last_answers))]
        shares = [run.share(k, self.steps) if k >= self.mixing.start else 0.0 for run in runs]
        scales = [self.in_pass.guidance, *(run.guidance for run in runs)]
        predictions = strengthened(guided, shares, scales, within)
        ys = [euler_step(prediction, latent, level, level_next) for prediction, latent in zip(predictions, latents)]
        new = ys
        if k >= self.mixing.start:
            etas = [self.mixing.eta, *(run.eta for run in runs)]
            means = [
                posterior_mean(prediction, latent, level, level_next) if eta else prediction
                for prediction, latent, eta in zip(predictions, latents, etas)
            ]
            new = aggregate(ys, means, shares, etas, self.mixing.correction, level_next.scale, self.mixing.rule)
        self.offsets = [0.0 if run.sees_estimate else latent - new[0] for run, latent in zip(runs, new[1:])]
        change = prediction_change(new[0] - euler_step(denoised, x, level, level_next), level, level_next)
        return change if within is None else torch.where(within, change, torch.zeros_like(change))

    def _evaluate(self, k: int, latents: Sequence[Tensor], main: Prediction, level: Level) -> None:
        """Evaluate the co-models if the plan says so or a `state_key` changed, and keep what they give.

        latents: each co-model's own, (batch, ...).
        main: the main model's prediction, of the same shape.
        """
        state_keys, is_due = self._state_keys(level), self._is_due(k)
        begun, self.begun = self.begun, {}

        def predicted(index: int) -> Prediction:
            if index in begun:
                return begun[index]()
            return self.models[index].prediction(latents[index], main.denoised, level)

        answers, device = dict(enumerate(self.last_answers)), main.denoised.device
        # those on other devices last: meanwhile the main model's device has the others' work
        for index, model in sorted(enumerate(self.models), key=lambda entry: entry[1].run.device is not None):
            if is_due or state_keys[index] != self.state_keys[index]:
                answer = predicted(index).changed(lambda part: carried(part, device).to(main.denoised))
                answers[index] = LastAnswer.of(model.run, self._finite(model.run, answer, main), main)
        self.last_answers = [answers[index] for index in range(len(self.models))]
        # only once all succeeded: if one fails, the sampler's caller may retry
        if is_due:
            self.planned += 1
        self.state_keys = state_keys

    def _state_keys(self, level: Level) -> list[Hashable]:
        return [model.run.state_key(level.ratio) if model.run.state_key else None for model in self.models]

    def _is_due(self, k: int) -> bool:
        """Return True if the plan has an evaluation in step k."""
        # a sampler that leaves out a level of the grid catches up
        return self.planned < bisect_right(self.plan, k)

    def _finite(self, co: CoRun, answer: Prediction, main: Prediction) -> Prediction:
        """Return a co-model's answer, or the main model's in its place if it has `on_nan` and is not finite."""
        if co.on_nan is None:
            return answer
        # if the main model itself has NaN, the co-model got some, and is not to blame
        is_finite = answer.denoised.isfinite().all()
        self.finite.append((co, Reading(is_finite | ~main.denoised.isfinite().all())))
        is_usable = (answer.denoised - main.denoised).isfinite().all()
        base = main.base
        return Prediction(
            torch.where(is_usable, answer.denoised, main.denoised),
            None if answer.base is None or base is None else torch.where(is_usable, answer.base, base),
        )

    def finish(self) -> None:
        """Report pending errors once the sampler has ended; NothingMixedError if it mixed nothing."""
        self.report_nan(wait=True)
        if not self.settled and not self.over:
            error = NothingMixedError(
                "the sampler never called the model that it was given, with its own latent and in its first steps, so "
                "nothing was mixed; use another sampler"
            )
            if not self.in_pass.survives(error):
                raise error

    def report_nan(self, wait: bool = False) -> None:
        """Call `on_nan` for those answers whose check has arrived and was not finite; wait: wait for the rest."""
        waiting, self.finite = self.finite, []
        for co, finite in waiting:
            if not wait and not finite.arrived:
                self.finite.append((co, finite))
            elif not finite.value() and co.on_nan is not None:
                co.on_nan()


def _wide(x: Tensor) -> torch.dtype:
    """Return the type in which a latent is mixed: float32 or wider."""
    return torch.promote_types(x.dtype, torch.float32)
