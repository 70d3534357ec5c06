"""From settings to a sampler: the one place where a slot becomes a `CoRun`, and the settings the words of `amdm`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from inspect import signature
from typing import Any

from torch import Tensor

from ..core.levels import Form, as_exploding
from ..core.sampling import CoRun, amdm, private_seeds
from ..settings import CoModel, Settings
from .regions import region_map

_KEYWORDS = tuple(signature(amdm).parameters)


def co_run(
    number: int,
    slot: CoModel,
    denoise: Callable[[Tensor, Tensor], Tensor],
    seeds: Sequence[int],
    size: tuple[int, int],
    *,
    sigma_max: float | None = None,
    state_key: Callable[[float], Hashable] | None = None,
    on_nan: Callable[[], None] | None = None,
    form: Form = as_exploding,
) -> CoRun:
    """The model of a slot, by its number from 1. denoise, sigma_max, state_key, on_nan, form: see `CoRun`. seeds:
    those of the images. size: the latent's height and width. AmdmError where the slot's mask cannot be read."""
    return CoRun(
        denoise,
        gamma=slot.gamma,
        gamma_end=slot.gamma_end,
        region=region_map(slot, *size, f"AMDM co-model {number}"),
        eta=slot.eta,
        noise=slot.noise,
        seed=private_seeds(seeds, number),
        sigma_max=sigma_max,
        state_key=state_key,
        on_nan=on_nan,
        form=form,
    )


def highest_shown(own: float, main: float) -> float | None:
    """The highest level that a co-model is shown (`CoRun.sigma_max`).

    own, main: the highest noise to signal that it and the main model know; above what the main model knows itself, both
    are shown what neither does.
    """
    return own if own < main else None


def mixed(func: Callable[..., Any], settings: Settings, co_runs: Sequence[CoRun], **more: Any) -> Callable[..., Any]:
    """The sampler `func` with these co-models in its first steps.

    A setting goes to the keyword of `amdm` that it shares its name with. more: other keywords of `amdm`.
    """
    shared = {name: getattr(settings, name) for name in _KEYWORDS if hasattr(settings, name)}
    return amdm(func, **{**shared, "co_models": co_runs}, **more)
