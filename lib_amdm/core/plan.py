"""The plan of a run: the steps that are mixed by default, and those in which the co-models are evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .levels import Level

LAST_RATIO = 0.36
"""Noise-to-signal ratio at which mixing ends by default, for a latent of 16x16."""
FOR_TWICE_THE_SIDE = 1.5
"""The factor by which this ratio grows when the latent's side doubles, since more places settle sooner: 1.2 to
2.2 from 16x16 to 32x32 (docs/measurements/mixing-length.md)."""
LEAST_SHARE = 0.25
"""The share of the steps that is mixed by default if all of them are below that ratio (img2img)."""
NOISE_ALONE = 20.0
"""Noise-to-signal ratio above which a latent carries no image information; `spread` treats all such levels as equal."""
EVALUATIONS, ESTIMATE_EVALUATIONS, NOISY_EVALUATIONS = 4, 5, 7
"""The defaults; a sampler that adds noise in every step makes a difference stale sooner, and a co-model that sees the
main model's estimate learns nothing of what it is given first."""


def automatic_steps(levels: Sequence[Level], size: Sequence[int]) -> int:
    """Return the number of steps from these levels that are mixed by default in a latent of this height and width."""
    if not all(size):
        return 0
    last = LAST_RATIO * FOR_TWICE_THE_SIDE ** math.log2(math.sqrt(math.prod(size)) / 16)
    steps = max(len(levels) - 1, 0)
    mixed = max(sum(level.ratio > last for level in levels[:-1]), math.ceil(LEAST_SHARE * steps))
    # the main model finishes the picture, in however few steps
    return min(mixed, steps - 1) if steps > 1 else mixed


def spread(levels: Sequence[Level], steps: int, evaluations: int) -> list[int]:
    """Choose the steps, among the first `steps`, in which co-models are evaluated.

    `evaluations` of them, beginning with the first, evenly spread over the logarithm of the noise level; 0 or too many:
    all.
    """
    if not 0 < evaluations < steps:
        return list(range(steps))
    # pure noise and none have no logarithm: the first counts as a high level, the last as one more step
    depths = [-math.log(min(level.ratio, NOISE_ALONE)) for level in levels[: steps + 1] if level.sigma]
    end = depths[steps] if len(depths) > steps else depths[-1] + (depths[-1] - depths[0]) / (steps - 1)
    chosen: list[int] = []
    for number in range(evaluations):
        wanted = depths[0] + (end - depths[0]) * number / evaluations
        first, last = (chosen[-1] + 1 if chosen else 0), steps - (evaluations - number)
        chosen.append(min(range(first, last + 1), key=lambda k: abs(depths[k] - wanted)))
    return chosen
