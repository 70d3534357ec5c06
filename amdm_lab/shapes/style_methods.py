"""Ways to draw the content of one checkpoint in the style of another one that knows the same things.

`all` draws filled things, and `all-pierced` things with a hole in their middle. Both get the whole scene as prompt, as
with an empty prompt in a slot of the panel.
"""

from __future__ import annotations

from functools import partial

from lib_amdm.settings import CoModel, Settings

from ..bundled import STYLED_OF
from ..world.scenes import Scene
from .rows import Method, Ordered, alone_row, amdm_row, mixing, on, words
from .rules import average, handed, merge

[(STYLE, CONTENT)] = STYLED_OF.items()
BOTH = (CONTENT, STYLE)
DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint=STYLE),))
"""The settings of a user who changes nothing: the content's checkpoint is the main one."""
BEST = mixing(STYLE, steps=150, evaluations=4, gamma=0.8, co_eta=0.0)
"""The best that was found: the style is mixed in up to the last step, because the last steps settle it."""
STYLE_LAST = mixing(CONTENT, steps=6, evaluations=4, gamma=0.5, co_eta=0.0)
"""The best that was found with the style's checkpoint as the main one."""


def words_of_content(name: str, scene: Scene) -> str:
    """Describe the scene to the content's checkpoint alone."""
    return "" if name == STYLE else words(name, scene)


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
    "merge": Method("two checkpoints merged 50/50", "given everything", partial(merge, names=BOTH)),
    "refiner": handed_row(CONTENT, STYLE, 0.5),
    "refiner-late": handed_row(CONTENT, STYLE, 0.8),
    "refiner-back": handed_row(STYLE, CONTENT, 0.5),
    "amdm-untold": Method(
        "AMDM, best found", f"`{STYLE}` given nothing", Ordered(CONTENT, BEST, words=words_of_content)
    ),
    "amdm-co-projected": Method(
        "AMDM, best found", f"`{STYLE}` projected", on(Ordered(CONTENT, BEST), projected=(STYLE,))
    ),
}
"""The rows of the table by their names on the command line."""
