"""The arguments of `amdm`, checked before anything runs: an error is a sentence with the argument and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import Any, Literal

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""The word for a number of steps or evaluations that is chosen for each call."""


def check_sampler(func: Any) -> None:
    """ValueError where `func` is no function of k-diffusion's kind."""
    if not callable(func):
        raise ValueError(
            f"func must be a sampler's function, which is called with a model, a latent and sigmas, not {func!r:.80}; "
            "give one such as k_diffusion.sampling.sample_euler"
        )


def check_co_models(co_models: Any, kind: type) -> None:
    """ValueError where `co_models` is no sequence of `kind`."""
    name = kind.__name__
    if not isinstance(co_models, Sequence):
        raise ValueError(f"co_models must be a list of {name}, not {co_models!r:.80}; give [{name}(denoise)]")
    for index, co in enumerate(co_models):
        if not isinstance(co, kind):
            raise ValueError(f"co_models[{index}] must be a {name}, not {co!r:.80}; give {name}(denoise)")


def check_counts(steps: Any, evaluations: Any, start: Any, nominal_steps: Any) -> None:
    """ValueError where one of these is no number of steps or evaluations."""
    _check_count("steps", steps, word=AUTO)
    _check_count("evaluations", evaluations, word=AUTO)
    _check_count("start", start)
    _check_count("nominal_steps", nominal_steps, 1)


def _check_count(name: str, value: Any, least: int = 0, word: str = "") -> None:
    """ValueError where `value` is neither a whole number from `least` on nor `word`."""
    if isinstance(value, str) and value == word:
        return
    if not isinstance(value, Integral) or value < least:
        other = f', or "{word}"' if word else ""
        raise ValueError(f"{name} must be a whole number from {least} on{other}, not {value!r:.80}")


def check_eta(name: str, value: float, correction: str) -> None:
    """ValueError where `value` is no share of the way back or, with the paper's correction, no length."""
    if correction == "paper" and not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a number from 0 on, not {value}")
    if correction != "paper" and not 0 <= value <= 1:
        raise ValueError(
            f"{name} must be from 0 to 1 with the {correction} correction, not {value}; lower it, or set correction to "
            '"paper" for a length in the paper\'s units'
        )


def check_falling(name: str, levels: Sequence[float]) -> None:
    """ValueError where a level is above the one before it, or no number."""
    for number, (level, level_next) in enumerate(pairwise(levels)):
        if not level >= level_next:
            raise ValueError(
                f"{name} must lead from the noise down to the picture, but step {number} leads from {level:g} to "
                f"{level_next:g}; give the schedule in the other order"
            )
