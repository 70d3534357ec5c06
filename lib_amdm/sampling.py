"""AMDM around any sampler: `amdm` turns a sampler function into one that co-runs other models in its first steps.

It knows three kinds of samplers by their signature: those with `sigmas` (k-diffusion), those with `sigma_min` and
`sigma_max` (DPM fast, DPM adaptive), and those with `timesteps` (the WebUI's DDIM family: variance-preserving latents,
the model returns eps and offers `inner_model.inner_model.alphas_cumprod`, as those samplers themselves expect).
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .aggregation import CORRECTIONS, Mix, aggregate, euler_step, posterior_mean, slerp

NOISES = ("shared", "independent")


@dataclass(frozen=True)
class CoRun:
    """A model that is run beside the main one.

    denoise(x, sigma): x is a latent x0 + sigma * noise of shape (batch, ...), sigma has shape (batch,); returns the
    denoised latent after the model's own guidance. gamma: its share in the aggregation, 0 to 1. eta: its correction.
    noise: "shared" starts from the main model's noisy latent, "independent" from noise of its own. seed: for
    independent noise, one number for the batch or one for each sample; None draws a new one each run.
    """

    denoise: Callable[[Tensor, Tensor], Tensor]
    gamma: float = 0.5
    eta: float = 0.2
    noise: str = "shared"
    seed: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be from 0 to 1, not {self.gamma}")
        if self.noise not in NOISES:
            raise ValueError(f'noise must be one of {", ".join(NOISES)}, not "{self.noise}"')


def amdm(
    func: Callable[..., Any],
    co_models: Sequence[CoRun],
    steps: int = 3,
    eta: float = 0.2,
    start: int = 0,
    correction: str = "relative",
    *,
    init: Tensor | None = None,
    nominal_steps: int = 20,
    shortest_tail: int = 3,
    going: Callable[[], bool] | None = None,
    force: bool = False,
    mix: Mix = slerp,
) -> Callable[..., Any]:
    """A sampler with the signature of `func` that aggregates `co_models` in the first `steps` steps (Algorithm 2).

    co_models: what is co-run, in slot order. steps: K. eta: the main model's correction. start: the first step that is
    aggregated; before it every model goes its own way. correction: "relative" or "paper" (see `aggregation.correct`).

    init: the clean latent that the sampler's input was noised from (img2img), for independent noise. nominal_steps:
    into how many steps the range of a sampler without a grid (DPM adaptive) is divided to say what the first K are.
    shortest_tail: fewest timesteps that UniPC-like samplers take. going: asked in every step before and after the
    co-models are run; once it says no, the main model goes on alone. force: go through the aggregation even where it
    changes nothing (K >= 1 and every gamma 0). mix: what is done in slerp's place, for comparisons (torch.lerp).

    With no step to aggregate (K = 0, or start >= K), no co-model, or every gamma 0, `func` is called as it is, on the
    arguments as they are.
    """
    if correction not in CORRECTIONS:
        raise ValueError(f'correction must be one of {", ".join(CORRECTIONS)}, not "{correction}"')
    running = [co for co in co_models if co.gamma > 0 or force]

    @functools.wraps(func)
    @torch.no_grad()
    def sample(*args: Any, **kwargs: Any) -> Any:
        if steps <= start or not running:
            return func(*args, **kwargs)
        plan = _plan(func, args, kwargs, nominal_steps, shortest_tail)
        early = _Early(plan, running, eta, start, correction, init, going or (lambda: True), mix)
        return early.run(min(steps, plan.most_steps))

    return sample


def private_seeds(seeds: Sequence[int], slot: int) -> list[int]:
    """Seeds for a slot's independent noise: set by each image's seed and the slot, unlike any of them."""
    return [(int(seed) * 0x9E3779B97F4A7C15 + slot * 0xBF58476D1CE4E5B9) % 2**63 for seed in seeds]


class _Early:
    """The first K steps: the main model's own steps, and beside each the co-models', until they are aggregated."""

    def __init__(
        self,
        plan: _Plan,
        co_models: Sequence[CoRun],
        eta: float,
        start: int,
        correction: str,
        init: Tensor | None,
        going: Callable[[], bool],
        mix: Mix,
    ) -> None:
        self.plan, self.co_models, self.going, self.mix = plan, co_models, going, mix
        self.start, self.correction = start, correction
        self.gammas = [co.gamma for co in co_models]
        self.etas = [eta, *(co.eta for co in co_models)]
        self.latents = [_first_latent(co, plan, init) for co in co_models]
        self.k = 0
        self.found: tuple[list[Tensor], list[Tensor]] | None = None
        self.waiting = False

    def run(self, steps: int) -> Any:
        x = self.plan.x
        with _watched(self.plan.model, self.evaluated) as model:
            for self.k in range(steps):
                self.found, self.waiting = None, True
                y = self.plan.step(model, x, self.k)
                if self.found is None:
                    return self.plan.rest(self.plan.model, y, self.k + 1)
                x, *self.latents = self.aggregated(y, *self.found)
        return self.plan.rest(self.plan.model, x, steps)

    def evaluated(self, x: Tensor, sigma: Tensor, output: Tensor) -> None:
        """After the main model's first evaluation of a step: the co-models' own steps from the same noise level."""
        if not self.waiting:
            return
        self.waiting = False
        if not self.going():
            return
        k, plan = self.k, self.plan
        level, level_next, up, down = plan.sigma(k), plan.sigma(k + 1), plan.to_ve(k), plan.to_ve(k + 1)
        denoised, seen_at = plan.denoised(x, sigma, output, k)
        means = [posterior_mean(denoised, x * up, seen_at, level_next) / down]
        ys = []
        for co, latent in zip(self.co_models, self.latents):
            latent = latent * up
            denoised = co.denoise(latent, latent.new_full((latent.shape[0],), level))
            ys.append(euler_step(denoised, latent, level, level_next) / down)
            means.append(posterior_mean(denoised, latent, level, level_next) / down)
        if self.going():
            self.found = ys, means

    def aggregated(self, y: Tensor, ys: list[Tensor], means: list[Tensor]) -> list[Tensor]:
        if self.k < self.start:
            return [y, *ys]
        scale = self.plan.to_ve(self.k + 1) / math.hypot(1.0, self.plan.sigma(self.k + 1))
        return aggregate([y, *ys], means, self.gammas, self.etas, self.correction, scale, self.mix)


@contextmanager
def _watched(model: Any, evaluated: Callable[[Tensor, Tensor, Tensor], None]) -> Iterator[Any]:
    """`model`, or a stand-in for it, that tells `evaluated` the latent, the noise level and the output of each call."""
    if not isinstance(model, torch.nn.Module):
        yield _Watched(model, evaluated)
        return
    handle = model.register_forward_hook(lambda module, args, output: evaluated(args[0], args[1], output))
    try:
        yield model
    finally:
        handle.remove()


class _Watched:
    """A callable that is not a torch module, with a look at each of its calls; everything else is the callable's."""

    def __init__(self, model: Any, evaluated: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        vars(self).update(_model=model, _evaluated=evaluated)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        output = self._model(x, sigma, *args, **kwargs)
        self._evaluated(x, sigma, output)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)


class _Plan:
    """A sampler's grid: its noise levels, one step of it, and all the rest of it."""

    def __init__(self, func: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.func, self.arguments = func, arguments
        self.model, self.x = arguments["model"], arguments["x"]
        # a progress bar for each single step would flood the console
        self.quiet = {"disable": True} if "disable" in inspect.signature(func).parameters else {}

    most_steps: int

    def sigma(self, k: int) -> float:
        """Noise level k in k-diffusion's scale."""
        raise NotImplementedError

    def to_ve(self, k: int) -> float:
        """What the sampler's latent at level k must be multiplied by to be x0 + sigma * noise."""
        return 1.0

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor, k: int) -> tuple[Tensor, Tensor | float]:
        """The denoised latent that an evaluation gave, and the noise level it was made at."""
        return output, sigma

    def step(self, model: Any, x: Tensor, k: int) -> Tensor:
        """The main model's step from level k to level k + 1."""
        raise NotImplementedError

    def rest(self, model: Any, x: Tensor, k: int) -> Any:
        """Everything from level k to the end."""
        raise NotImplementedError

    def call(self, model: Any, x: Tensor, k: int, **changed: Any) -> Any:
        """The sampler itself, with `changed` arguments, its callback's step counted on from k."""
        arguments = {**self.arguments, **changed, "model": model, "x": x}
        callback = arguments.get("callback")
        if callback is not None:
            arguments["callback"] = lambda told: callback({**told, "i": told["i"] + k})
        return self.func(**arguments)

    def report(self, k: int, **told: Any) -> None:
        callback = self.arguments.get("callback")
        if callback is not None:
            callback({"i": k, **told})

    def evaluate(self, model: Any, x: Tensor, level: float) -> Tensor:
        return model(x, x.new_full((x.shape[0],), level), **(self.arguments.get("extra_args") or {}))


class _Sigmas(_Plan):
    """k-diffusion samplers with a list of sigmas: a step is the sampler on two neighbouring ones."""

    def __init__(self, func: Callable[..., Any], arguments: dict[str, Any]) -> None:
        super().__init__(func, arguments)
        self.sigmas = arguments["sigmas"]
        self.most_steps = len(self.sigmas) - 1
        self.code = getattr(inspect.unwrap(func), "__code__", None)
        self.arguments = {**arguments, **self._brownian()}

    def sigma(self, k: int) -> float:
        return self.sigmas[k].item()

    def step(self, model: Any, x: Tensor, k: int) -> Tensor:
        if self._ends_alone(k):
            return self._last_step(model, x, k)
        return self.call(model, x, k, sigmas=self.sigmas[k : k + 2], **self.quiet, **self._churn(1))

    def rest(self, model: Any, x: Tensor, k: int) -> Any:
        if self._ends_alone(k):
            return self._last_step(model, x, k)
        left = self.most_steps - k
        return self.call(model, x, k, sigmas=self.sigmas[k:], **self._churn(left)) if left else x

    def _ends_alone(self, k: int) -> bool:
        """k-diffusion's 2M SDE and 3M SDE end on the denoised latent, but fail where that is their only step."""
        remembers = {"h_last", "h_1"} & set(getattr(self.code, "co_varnames", ()))
        return bool(remembers) and k == self.most_steps - 1 and self.sigma(k + 1) == 0

    def _last_step(self, model: Any, x: Tensor, k: int) -> Tensor:
        level = self.sigmas[k]
        denoised = self.evaluate(model, x, self.sigma(k))
        self.report(k, x=x, sigma=level, sigma_hat=level, denoised=denoised)
        return denoised

    def _churn(self, steps: int) -> dict[str, float]:
        """s_churn is a sum over all steps, which the sampler divides by the steps it is given."""
        churn = self.arguments.get("s_churn")
        return {"s_churn": churn * steps / self.most_steps} if churn else {}

    def _brownian(self) -> dict[str, Any]:
        """One noise tree over the whole range, where the sampler would grow one for every call."""
        name = "BrownianTreeNoiseSampler"
        if name not in getattr(self.code, "co_names", ()) or self.arguments.get("noise_sampler") is not None:
            return {}
        tree = inspect.unwrap(self.func).__globals__[name]
        return {"noise_sampler": tree(self.x, self.sigmas[self.sigmas > 0].min(), self.sigmas.max())}


class _Range(_Plan):
    """DPM fast and DPM adaptive: the range is cut into equal parts of log sigma, and early steps are DDIM steps."""

    def __init__(self, func: Callable[..., Any], arguments: dict[str, Any], nominal_steps: int) -> None:
        super().__init__(func, arguments)
        self.parts = arguments.get("n", nominal_steps)
        # without a number of its own the sampler takes as many steps as it likes, and at least the last part
        self.most_steps = self.parts if "n" in arguments else self.parts - 1

    def sigma(self, k: int) -> float:
        top, bottom = math.log(self.arguments["sigma_max"]), math.log(self.arguments["sigma_min"])
        return math.exp(top + (bottom - top) * k / self.parts)

    def step(self, model: Any, x: Tensor, k: int) -> Tensor:
        level = self.sigma(k)
        denoised = self.evaluate(model, x, level)
        self.report(k, x=x, sigma=level, sigma_hat=level, denoised=denoised)
        return euler_step(denoised, x, level, self.sigma(k + 1))

    def rest(self, model: Any, x: Tensor, k: int) -> Any:
        if k == self.parts:
            return x
        fewer = {"n": self.parts - k} if "n" in self.arguments else {}
        return self.call(model, x, k, sigma_max=self.sigma(k), **fewer)


class _Timesteps(_Plan):
    """The WebUI's samplers over ascending timesteps, on variance-preserving latents; their model returns eps.

    DDIM and its kin (they have an `eta`) are run on two neighbouring timesteps for a step. The others keep a history
    or refuse short lists, so their early steps are DDIM steps.
    """

    def __init__(
        self, func: Callable[..., Any], arguments: dict[str, Any], own_steps: bool, shortest_tail: int
    ) -> None:
        super().__init__(func, arguments)
        self.timesteps = arguments["timesteps"]
        self.alphas_cumprod = self.model.inner_model.inner_model.alphas_cumprod
        self.most_steps = len(self.timesteps) - 1
        self.own_steps, self.shortest_tail = own_steps, shortest_tail

    def timestep(self, k: int) -> int:
        return int(self.timesteps[len(self.timesteps) - 1 - k])

    def alpha(self, k: int) -> float:
        return self.alphas_cumprod[self.timestep(k)].item()

    def sigma(self, k: int) -> float:
        return math.sqrt((1 - self.alpha(k)) / self.alpha(k))

    def to_ve(self, k: int) -> float:
        return 1 / math.sqrt(self.alpha(k))

    def denoised(self, x: Tensor, sigma: Tensor, output: Tensor, k: int) -> tuple[Tensor, Tensor | float]:
        return x * self.to_ve(k) - self.sigma(k) * output, self.sigma(k)

    def step(self, model: Any, x: Tensor, k: int) -> Tensor:
        if self.own_steps:
            end = len(self.timesteps) - k
            return self.call(model, x, k, timesteps=self.timesteps[end - 2 : end], **self.quiet)
        eps = self.evaluate(model, x, float(self.timestep(k)))
        denoised, level = self.denoised(x, None, eps, k)
        y = euler_step(denoised, x * self.to_ve(k), level, self.sigma(k + 1)) / self.to_ve(k + 1)
        self.report(k, x=y, sigma=0, sigma_hat=0, denoised=denoised)
        return y

    def rest(self, model: Any, x: Tensor, k: int) -> Any:
        left = self.timesteps[: len(self.timesteps) - k]
        restarts = "is_img2img" in inspect.signature(self.func).parameters
        if restarts and len(left) < self.shortest_tail:
            for later in range(k, self.most_steps):
                x = self.step(model, x, later)
            return x
        if len(left) < 2:
            return x
        return self.call(model, x, k, timesteps=left, **({"is_img2img": True} if restarts else {}))


def _plan(func: Callable[..., Any], args: tuple, kwargs: dict, nominal_steps: int, shortest_tail: int) -> _Plan:
    """The grid of a call of `func`; TypeError where its signature is of no known kind."""
    signature = inspect.signature(func)
    arguments = dict(signature.bind(*args, **kwargs).arguments)
    names = signature.parameters
    for name, parameter in names.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    if "sigmas" in names:
        return _Sigmas(func, arguments)
    if "timesteps" in names:
        return _Timesteps(func, arguments, "eta" in names, shortest_tail)
    if "sigma_min" in names and "sigma_max" in names:
        return _Range(func, arguments, nominal_steps)
    name = getattr(func, "__name__", repr(func))
    raise TypeError(f"{name} has none of sigmas, timesteps, or sigma_min and sigma_max, so AMDM cannot step it")


def _first_latent(co: CoRun, plan: _Plan, init: Tensor | None) -> Tensor:
    """A co-model's first latent, in the sampler's own scale."""
    x = plan.x
    if co.noise == "shared":
        return x
    noise = torch.stack([_noise(x[0], seed) for seed in _seeds(co.seed, len(x))])
    clean = torch.zeros_like(x) if init is None else init.to(x)
    return (clean + plan.sigma(0) * noise) / plan.to_ve(0)


def _seeds(seed: int | Sequence[int] | None, count: int) -> Sequence[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int):
        return [seed + index for index in range(count)]
    if len(seed) != count:
        raise ValueError(f"seed has {len(seed)} entries for a batch of {count}; give one number or one for each sample")
    return seed


def _noise(like: Tensor, seed: int | None) -> Tensor:
    """Gaussian noise of one sample from a generator of its own, so no other random stream moves."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.randn(like.shape, generator=generator).to(like)
