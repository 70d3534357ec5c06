"""AMDM inside the denoiser: `amdm` lets a sampler's denoiser speak for several models in the first steps.

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
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from . import arguments
from .aggregation import CORRECTIONS, MIXES, Mix, Share, aggregate
from .arguments import AUTO, Auto
from .levels import Form, Level, as_exploding, euler_step, posterior_mean, prediction_change, variance_exploding
from .plan import EVALUATIONS, NOISY_EVALUATIONS, automatic_steps, spread
from .readings import Reading
from .sampler_call import Call, Grid, StandIn, grid_of

NOISES = ("shared", "independent")
ROUNDING = 1.005
"""The factor by which a schedule may begin above the highest level of the model that it is made for."""
LOOKED_AHEAD = 2
"""By how many steps a sampler may look ahead and come back within one step (Heun++)."""


class NothingMixedError(ValueError):
    """The sampler has ended, and no step of it was mixed."""


@dataclass(frozen=True)
class CoRun:
    """A model that is run beside the main one.

    denoise(x, sigma): x is a latent of shape (batch, ...) and sigma its noise level of shape (batch,), in the model's
    own `form`: x0 + sigma * noise, or (1 - sigma) x0 + sigma * noise for flow matching; returns the denoised latent
    after the model's own guidance. gamma: its share in the aggregation, 0 to 1; gamma_end: the share that it has come
    to, linearly, by the last early step (None: it stays). region: a map of 0 to 1 that broadcasts to the latent, by
    which the share is multiplied. eta: its correction. noise: "shared" starts from the main model's noisy latent,
    "independent" from noise of its own. seed: for independent noise, one number for the batch or one for each sample;
    None draws a new one each run. sigma_max: the highest noise level that the model knows; above it, it is shown this
    one, and the latent scaled along. A variance-exploding model beside a flow model needs it. state_key(sigma):
    identifies the inputs of this model and the main one at a level, such as the part of a prompt that a schedule has
    reached; once it changes, the model is evaluated again whatever the plan is. on_nan: called when the model has
    answered with anything but finite numbers where the main one has not; the answer counts as the main model's own,
    since on a GPU this may be known only a step later. None: its answers are taken as they are.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    gamma: float = 0.5
    eta: float = 0.0
    noise: str = "shared"
    seed: int | Sequence[int] | None = None
    gamma_end: float | None = None
    region: Tensor | None = None
    sigma_max: float | None = None
    state_key: Callable[[float], Hashable] | None = None
    on_nan: Callable[[], None] | None = None
    form: Form = as_exploding

    def __post_init__(self) -> None:
        for name, share in (("gamma", self.gamma), ("gamma_end", self.gamma_end)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {share}")
        if self.noise not in NOISES:
            raise ValueError(f'noise must be one of {", ".join(NOISES)}, not "{self.noise}"')

    @property
    def speaks(self) -> bool:
        """True where the model has a share in any step."""
        return self.gamma > 0 or bool(self.gamma_end)

    def share(self, k: int, steps: int) -> Share:
        """Return its share in step k of `steps`."""
        way = 0.0 if self.gamma_end is None or steps < 2 else k / (steps - 1) * (self.gamma_end - self.gamma)
        share = min(max(self.gamma + way, 0.0), 1.0)
        return share if self.region is None else share * self.region


def amdm(
    func: Callable[..., Any],
    co_models: Sequence[CoRun],
    steps: int | Auto = AUTO,
    eta: float = 0.0,
    start: int = 0,
    correction: str = "relative",
    *,
    evaluations: int | Auto = 0,
    init: Tensor | None = None,
    within: Tensor | None = None,
    nominal_steps: int = 20,
    still_mixing: Callable[[], bool] | None = None,
    on_mixed: Callable[[int, int], None] | None = None,
    survives: Callable[[Exception], bool] | None = None,
    force: bool = False,
    mix: str | Mix = "slerp",
    level_of: Callable[[float], Level] = variance_exploding,
) -> Callable[..., Any]:
    """Return a sampler like `func` that aggregates `co_models` in the first `steps` steps (Algorithm 2).

    co_models: the models beside the main one, in slot order. steps: K; "auto": down to a noise level that depends on
    the latent's size. eta: the main model's correction. start: the first step that is aggregated; before it every model
    goes its own way. correction: one of `aggregation.CORRECTIONS`. evaluations: E, the number of the K steps in which
    each co-model is evaluated, spread evenly over log noise levels from the first on; in the others its prediction is
    the main model's plus their last difference. 0: in all K; "auto": 4, or 7 for samplers that add noise in every step.

    init: the clean latent that the sampler's input was noised from (img2img), for independent noise. within: where the
    picture may be changed at all, a map of booleans (inpainting). nominal_steps: into how many parts of log sigma the
    range of a sampler without a grid (DPM adaptive) is divided to count the first K steps. still_mixing: called before
    and after the co-models are run; once it returns False, the main model goes on alone. on_mixed: called with the
    number of steps that were mixed, and that are to be, after each of them. survives: called with an error
    of a co-model or of the aggregation, or a NothingMixedError at the end; where it returns True, the main model goes
    on alone. force: go through the
    aggregation even where it changes nothing (K >= 1 and every gamma 0). mix: one of `aggregation.MIXES`, or a rule of
    the caller's own. level_of: the noise level that a number in the sampler's `sigmas` means: `levels.flow` where the
    main model is a flow model.

    With no step to aggregate (K = 0, start >= K, or a call without steps), no co-model, or every gamma 0, `func` is
    called as it is, on the arguments as they are. ValueError names an argument that cannot be, here or when the sampler
    is called, and a sampler in whose first K steps the model that it is given was never called.
    """
    arguments.check_sampler(func)
    arguments.check_co_models(co_models, CoRun)
    arguments.check_counts(steps, evaluations, start, nominal_steps)
    if correction not in CORRECTIONS:
        raise ValueError(f'correction must be one of {", ".join(CORRECTIONS)}, not "{correction}"')
    if isinstance(mix, str) and mix not in MIXES:
        raise ValueError(f'mix must be one of {", ".join(MIXES)}, not "{mix}"')
    for name, own in (("eta", eta), *((f"the eta of co_models[{n}]", co.eta) for n, co in enumerate(co_models))):
        arguments.check_eta(name, own, correction)
    rule = MIXES[mix] if isinstance(mix, str) else mix
    running = [co for co in co_models if co.speaks or force]

    @functools.wraps(func)
    @torch.no_grad()
    def sample(*args: Any, **kwargs: Any) -> Any:
        if not running or (not isinstance(steps, str) and steps <= start):
            return func(*args, **kwargs)
        call = Call(func, args, kwargs)
        grid = grid_of(call, nominal_steps, level_of)
        most = automatic_steps(grid.levels, call.x.shape[-2:]) if isinstance(steps, str) else steps
        mixed = min(most, grid.steps)
        if mixed <= start or not call.x.numel():
            return func(*args, **kwargs)
        if any(co.sigma_max is None and math.isinf(co.form(grid.levels[0]).sigma) for co in running):
            raise ValueError("a co-model of variance-exploding latents beside a flow model needs its sigma_max")
        automatic = NOISY_EVALUATIONS if call.is_noisy else EVALUATIONS
        count = automatic if isinstance(evaluations, str) else evaluations
        device = call.x.device
        early = _EarlySteps(
            grid,
            [co if co.region is None else replace(co, region=co.region.to(device)) for co in running],
            mixed,
            start,
            etas=[eta, *(co.eta for co in running)],
            correction=correction,
            mix=rule,
            plan=spread(grid.levels, mixed, count),
            shape=call.x.shape,
            offsets=[_offset(co, call.x, grid.levels[0], init) for co in running],
            still_mixing=still_mixing or _always,
            on_mixed=on_mixed or _nobody,
            survives=survives or _never,
            within=within,
        )
        result = call.on(StandIn(call.model, early.prediction))
        if inspect.isgenerator(result):
            return _to_its_end(result, early)
        early.finish()
        return result

    return sample


@torch.no_grad()
def _to_its_end(sampler: Generator[Any, Any, Any], early: _EarlySteps) -> Generator[Any, Any, Any]:
    """Go on with a sampler that hands out its steps one by one."""
    result = yield from sampler
    early.finish()
    return result


def private_seeds(seeds: Sequence[int], slot: int) -> list[int]:
    """Return seeds for a slot's independent noise: set by each image's seed and the slot, unlike any of them."""
    return [(int(seed) * 0x9E3779B97F4A7C15 + slot * 0xBF58476D1CE4E5B9) % 2**63 for seed in seeds]


def _always() -> bool:
    return True


def _never(error: Exception) -> bool:
    return False


def _nobody(done: int, steps: int) -> None:
    return


@dataclass(eq=False)
class _EarlySteps:
    """The first K steps of one run. `prediction` is called behind each of the main model's evaluations.

    etas: of the main model and of each co-model. plan: the steps in which co-models are evaluated. shape: the
    latent's. offsets: each co-model's latent minus the main one's. The rest is as in `amdm`, or what the run found:
    changes: of the prediction, by step, as long as the sampler may come back to it. settled: the steps that were mixed.
    differences: each co-model's last prediction minus the main one's. finite: for answers of co-models, whether they
    were finite. planned: how many evaluations of the plan are made. over: the main model goes on alone.
    """

    grid: Grid
    co_models: Sequence[CoRun]
    steps: int
    start: int
    etas: Sequence[float]
    correction: str
    mix: Mix
    plan: Sequence[int]
    shape: torch.Size
    offsets: Sequence[Tensor | float]
    still_mixing: Callable[[], bool]
    on_mixed: Callable[[int, int], None]
    survives: Callable[[Exception], bool]
    within: Tensor | None

    changes: dict[int, Tensor] = field(default_factory=dict)
    settled: set[int] = field(default_factory=set)
    differences: list[Tensor] = field(default_factory=list)
    state_keys: list[Hashable] = field(default_factory=list)
    finite: list[tuple[CoRun, Reading]] = field(default_factory=list)
    planned: int = 0
    over: bool = False

    def prediction(self, x: Tensor, sigma: Reading, output: Tensor) -> Tensor | None:
        """Return what the sampler gets in place of `output`; None leaves it.

        x: the latent the main model was shown, (batch, ...). sigma: its noise level, a number on its way from the
        device. output: the main model's own answer, of x's shape: a denoised latent, or noise where the grid
        `predicts_noise`. Returns a tensor like `output`.

        The first evaluation in a step settles the change of its prediction; later ones in the same step, at the step's
        level or between two levels, are changed as much. A sampler that has gone on and comes back later (Restart)
        settles the step anew, from the last differences. Some samplers also show a smaller latent: the answer to that
        stays as it is.
        """
        if self.over or x.shape != self.shape:
            return None
        self.report_nan()
        k, level = self.grid.step(sigma, max(self.settled, default=-1) + 1)
        self.changes = {step: change for step, change in self.changes.items() if step >= k - LOOKED_AHEAD}
        if k >= self.steps:
            return None
        if k not in self.changes:
            try:
                change = self._change(k, x, output, level)
            except Exception as error:
                if not self.survives(error):
                    raise
                change = None
            if change is None:
                self.over = True
                self.changes.clear()
                return None
            self.changes[k] = change
            if k not in self.settled:
                self.settled.add(k)
                self.on_mixed(len(self.settled), self.steps)
        return self.grid.changed(output, self.changes[k], level)

    def _change(self, k: int, x: Tensor, output: Tensor, level: Level) -> Tensor | None:
        """Return the change of step k's denoised latent, of x's shape; None once the main model goes on alone.

        x, output: as in `prediction`. level: the noise level at which the step is evaluated. Computed in float32 or
        wider, and returned in that type.
        """
        if not self.still_mixing():
            return None
        wide = torch.promote_types(x.dtype, torch.float32)
        x, kind, level_next = x.to(wide), x.dtype, self.grid.levels[k + 1]
        denoised = self.grid.denoised(x, output.to(wide), level)
        if not level_next.ratio < level.ratio:
            return torch.zeros_like(denoised)
        latents = [x, *(x + offset for offset in self.offsets)]
        self._evaluate(k, [latent.to(kind) for latent in latents[1:]], denoised, level)
        self.report_nan()
        if not self.still_mixing():
            return None
        predictions = [denoised, *(denoised + difference for difference in self.differences)]
        ys = [euler_step(own, latent, level, level_next) for own, latent in zip(predictions, latents)]
        new = ys
        if k >= self.start:
            means = [
                posterior_mean(own, latent, level, level_next) if eta else own
                for own, latent, eta in zip(predictions, latents, self.etas)
            ]
            shares = [co.share(k, self.steps) for co in self.co_models]
            new = aggregate(ys, means, shares, self.etas, self.correction, level_next.scale, self.mix)
        self.offsets = [latent - new[0] for latent in new[1:]]
        change = prediction_change(new[0] - ys[0], level, level_next)
        return change if self.within is None else torch.where(self.within, change, torch.zeros_like(change))

    def _evaluate(self, k: int, latents: Sequence[Tensor], denoised: Tensor, level: Level) -> None:
        """Evaluate the co-models where the plan asks for it, or a `state_key` changed, and keep their differences.

        latents: each co-model's own, (batch, ...). denoised: the main model's denoised latent, of the same shape.
        """
        state_keys = [co.state_key(level.ratio) if co.state_key else None for co in self.co_models]
        # a sampler that leaves out a level of the grid catches up
        due = self.planned < bisect_right(self.plan, k)
        self.differences = [
            self._difference(co, _denoised(co, latent, level).to(denoised), denoised)
            if due or state_keys[index] != self.state_keys[index]
            else self.differences[index]
            for index, (co, latent) in enumerate(zip(self.co_models, latents))
        ]
        # not before all of them are there: where one fails, the sampler's caller may try once more
        self.planned += due
        self.state_keys = state_keys

    def _difference(self, co: CoRun, own: Tensor, denoised: Tensor) -> Tensor:
        """Return a co-model's prediction minus the main one's, (batch, ...), with zeros for what is not finite where it
        has an `on_nan`."""
        difference = own - denoised
        if co.on_nan is None:
            return difference
        # where the main model itself has NaN, the co-model was shown some, and is not to blame
        at_fault = ~own.isfinite().all() & denoised.isfinite().all()
        self.finite.append((co, Reading(~at_fault)))
        return torch.where(difference.isfinite().all(), difference, 0)

    def finish(self) -> None:
        """Report what is still to be reported once the sampler has ended; NothingMixedError where it mixed nothing."""
        self.report_nan(wait=True)
        if not self.settled and not self.over:
            error = NothingMixedError(
                "the sampler never called the model that it was given, with its own latent and in its first steps, so "
                "nothing was mixed; use another sampler"
            )
            if not self.survives(error):
                raise error

    def report_nan(self, wait: bool = False) -> None:
        """Call `on_nan` for answers that were not finite, as far as this is known by now; wait: for all of them."""
        waiting, self.finite = self.finite, []
        for co, finite in waiting:
            if not wait and not finite.arrived:
                self.finite.append((co, finite))
            elif not finite.value() and co.on_nan is not None:
                co.on_nan()


def _denoised(co: CoRun, latent: Tensor, level: Level) -> Tensor:
    """Return a co-model's denoised latent, (batch, ...), for its latent at a level."""
    sigma = co.form(level).sigma
    if co.sigma_max is not None and sigma > co.sigma_max * ROUNDING:
        sigma = co.sigma_max
    shown = latent / (level.sigma / sigma)
    return co.denoise(shown, shown.new_full((len(shown),), sigma))


def _offset(co: CoRun, x: Tensor, level: Level, init: Tensor | None) -> Tensor | float:
    """Return a co-model's first latent minus the main one's `x`, in the sampler's own scale."""
    if co.noise == "shared":
        return 0.0
    noise = torch.stack([_noise(x[0], seed) for seed in _seeds(co.seed, len(x))])
    clean = torch.zeros_like(x) if init is None else init.to(x)
    return level.alpha * clean + level.sigma * noise - x


def _seeds(seed: int | Sequence[int] | None, count: int) -> Sequence[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [seed + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for a batch of {count}; give one number or one for each sample")
    return seed


def _noise(like: Tensor, seed: int | None) -> Tensor:
    """Draw Gaussian noise of one sample from a generator of its own, so no other random stream moves."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like)
