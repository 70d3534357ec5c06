"""Aggregation of Multi Diffusion Models: several diffusion models draw one picture together.

    from lib_amdm import CoRun, amdm
    sampler = amdm(sample_euler, [CoRun(denoise, gamma=0.5)], evaluations=4)

The names below are imported when they are first used, so that a WebUI's start loads none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.aggregation import aggregate, slerp
    from .core.arguments import CoRun, Mixing, Pass, Prediction
    from .core.levels import Level, flow, variance_exploding, variance_preserving
    from .core.plan import automatic_steps, spread
    from .core.sampling import amdm

__version__ = "0.3.0"

_MODULES = {
    "aggregation": ("aggregate", "slerp"),
    "arguments": ("CoRun", "Mixing", "Pass", "Prediction"),
    "levels": ("Level", "flow", "variance_exploding", "variance_preserving"),
    "plan": ("automatic_steps", "spread"),
    "sampling": ("amdm",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CoRun",
    "Level",
    "Mixing",
    "Pass",
    "Prediction",
    "aggregate",
    "amdm",
    "automatic_steps",
    "flow",
    "slerp",
    "spread",
    "variance_exploding",
    "variance_preserving",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".core.{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
