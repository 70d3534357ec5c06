"""Ways to draw the content of one checkpoint in the style of another, which knows the same things.

`all` draws filled things, and `all-pierced` things with a hole in their middle. Both are told the whole scene, as with
an empty prompt in a slot of the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from lib_amdm.settings import CoModel, Settings

from ..bundled import STYLED_OF
from ..studio.host import Denoiser, StandaloneModel
from ..world.scenes import Scene
from .methods import Method, Sampled, Studio, aggregated, alone_row, amdm_row, average, merge, mixing, on
from .projected import Projected

[(STYLE, CONTENT)] = STYLED_OF.items()
BOTH = (CONTENT, STYLE)
DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint=STYLE),))
"""The settings of a user who changes nothing: the content's checkpoint is the main one."""
BEST = mixing(STYLE, steps=150, evaluations=4, gamma=0.8, co_eta=0.0)
"""The best that was found: the style is mixed in to the last step, because it is what the last steps settle."""
STYLE_LAST = mixing(CONTENT, steps=6, evaluations=4, gamma=0.5, co_eta=0.0)
"""The best that was found with the style's checkpoint as the main one."""


class Handed(nn.Module):
    """One checkpoint down to a noise level, and another from there on, as a denoiser: the WebUI's refiner."""

    def __init__(self, first: Denoiser | Projected, then: Denoiser | Projected, level: float) -> None:
        super().__init__()
        self.first, self.then, self.level = first, then, level

    @property
    def model(self) -> StandaloneModel:
        return self.first.model

    def forward(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        """Return the denoised latent, (batch, ...), for a latent `x` at levels `sigma`, (batch,)."""
        denoiser = self.first if sigma[0].item() > self.level else self.then
        return denoiser(x, sigma)


def handed(
    studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], first: str, then: str, share: float
) -> Sampled:
    """Draw with one checkpoint in a share of the steps, and with another in the rest."""
    begins, ends = (studio.denoiser(name, scenes) for name in (first, then))
    sigmas = studio.sigmas(first)
    switch = round(share * studio.steps)
    # between the last step of the first and the first of the other
    level = (sigmas[switch - 1].item() + sigmas[switch].item()) / 2
    latents = studio.sample(studio.func, Handed(begins, ends, level), seeds)
    return Sampled(latents, begins.evaluations, ends.evaluations)


def averaged_row(content: float) -> Method:
    shares = (content, 1 - content)
    detail = f"all steps, {shares[0]:.0%} and {shares[1]:.0%}"
    return Method("two predictions averaged", detail, partial(average, names=BOTH, weights=shares))


def handed_row(first: str, then: str, share: float) -> Method:
    detail = f"`{first}` in {share:.0%} of the steps, then `{then}`"
    return Method("refiner", detail, partial(handed, first=first, then=then, share=share))


STYLE_METHODS: dict[str, Method] = {
    "content": alone_row(CONTENT),
    "style": alone_row(STYLE),
    "amdm-defaults": amdm_row("AMDM, defaults", DEFAULTS, CONTENT),
    "amdm": amdm_row("**AMDM, best found**", BEST, CONTENT),
    "amdm-style-last": amdm_row("AMDM", STYLE_LAST, STYLE),
    "average": averaged_row(0.5),
    "average-20": averaged_row(0.2),
    "merge": Method("two checkpoints merged 50/50", "told everything", partial(merge, names=BOTH)),
    "refiner": handed_row(CONTENT, STYLE, 0.5),
    "refiner-late": handed_row(CONTENT, STYLE, 0.8),
    "refiner-back": handed_row(STYLE, CONTENT, 0.5),
    "amdm-untold": Method(
        "AMDM, best found",
        f"`{STYLE}` told nothing",
        on(partial(aggregated, settings=BEST, main=CONTENT), untold=(STYLE,)),
    ),
    "amdm-co-projected": Method(
        "AMDM, best found",
        f"`{STYLE}` projected",
        on(partial(aggregated, settings=BEST, main=CONTENT), projected=(STYLE,)),
    ),
}
"""The rows of the table by their names on the command line."""
