"""The rows of the benchmark's tables: AMDM, and what it is compared with."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from lib_amdm.settings import AUTO, MAIN_CHECKPOINT, AdapterSettings, CoModel, Settings

from ..bundled import ADAPTERS, FLOW_OF, IMAGE_ADAPTER, LAYOUT_ADAPTER, WIDE_OF
from ..world.scenes import Scene
from .rows import MAIN, Method, Ordered, alone_row, amdm_row, mixing, on, pulled, words
from .rules import EVERYTHING, PAIR, Picked, Summed, average, guidance, joined, merge, redrawn, released

THREE = ("shapes", "colours", "backgrounds")
DEFAULTS = Settings(enabled=True, co_models=(CoModel(checkpoint="colours"),))
"""The settings of a user who changes nothing."""
BEST = mixing("colours", steps=AUTO, evaluations=4, gamma=0.5, co_eta=0.0)
"""The best that was found for two models with at most four evaluations of the second."""
FIRST_DEFAULTS = mixing("colours", steps=3, evaluations=0, eta=0.2, gamma=0.5, co_eta=0.2)
"""The former defaults: a co-model was evaluated in every one of the K steps."""
UNGUIDED = mixing("colours", steps=14, evaluations=3, eta=0.3, gamma=0.7, co_eta=0.3)
"""The best found for CFG 1."""
_BACKGROUNDS = CoModel(checkpoint="backgrounds", gamma=0.5)
BEST_THREE = replace(BEST, evaluations=5, co_models=(replace(BEST.co_models[0], gamma=0.7), _BACKGROUNDS))
"""The best that was found with a third model."""
EARLY = 14
"""The steps, of 20, in which the methods without a rule for it put models together."""


def no_words(name: str, scene: Scene) -> str:
    return ""


def both_dialects(name: str, scene: Scene) -> str:
    return joined(PAIR, scene)


def and_row(name: str) -> Method:
    return Method(f"`{name}` with AND", "given both dialects", Ordered(name, words=both_dialects))


METHODS: dict[str, Method] = {
    **{name: alone_row(name) for name in THREE},
    EVERYTHING: Method(f"`{EVERYTHING}`: the ceiling", "given everything", Ordered(EVERYTHING)),
    "average": Method("two predictions averaged", "all steps", average),
    "average-early": Method(
        "two predictions averaged", f"first {EARLY} steps, then {MAIN}", partial(average, steps=EARLY)
    ),
    "average-three": Method("three predictions averaged", "all steps", partial(average, names=THREE)),
    "merge": Method("two checkpoints merged 50/50", "given everything", merge),
    "merge-and": Method("two checkpoints merged 50/50", "given both dialects by AND", partial(merge, prompt="and")),
    "and-shapes": and_row("shapes"),
    "and-colours": and_row("colours"),
    "amdm-defaults": amdm_row("AMDM, defaults", DEFAULTS),
    "amdm": amdm_row("**AMDM, best found**", BEST),
    "amdm-unguided": amdm_row("AMDM, best found for CFG 1", UNGUIDED),
    "guidance-sum": Method("both guidances at full weight", "all steps", partial(guidance, kind=Summed)),
    "saliency": Method("the stronger guidance's prediction", "all steps", partial(guidance, kind=Picked)),
    **{f"amdm-e{count or 'all'}": amdm_row("AMDM", replace(BEST, evaluations=count)) for count in (2, 3, 5, 0)},
    **{f"amdm-{rule}": amdm_row("AMDM with a pull", pulled(BEST, rule)) for rule in ("relative", "norm", "own")},
    "amdm-first-defaults": amdm_row("AMDM, the first defaults", FIRST_DEFAULTS),
    "amdm-lerp": amdm_row("AMDM with lerp", BEST, mix=torch.lerp),
    "amdm-three": amdm_row("**AMDM, three models**", BEST_THREE),
    "released": Method("the released code's rule", "its own defaults: mixed in steps 2 to 4", released),
    "released-long": Method(
        "the released code's rule", f"mixed in steps 2 to {EARLY}", partial(released, last=EARLY - 1)
    ),
}
"""The rows of the table by their names on the command line."""

NO_ADAPTER = AdapterSettings()
LAYOUT, IMAGE = (AdapterSettings(adapter=file.name) for file in (LAYOUT_ADAPTER, IMAGE_ADAPTER))
CO_MODEL = mixing(MAIN_CHECKPOINT, steps=14, evaluations=0, eta=0.1, gamma=0.6, co_eta=0.1)
"""The best that was found for a co-model that is the main model with an adapter, evaluated in all K steps."""


def _adapter_row(label: str, detail: str, settings: Settings, with_text: bool) -> Method:
    return Method(label, detail, Ordered(MAIN, settings, words=words if with_text else no_words), ADAPTERS)


def _main_row(label: str, detail: str, adapter: AdapterSettings, with_text: bool = False) -> Method:
    return _adapter_row(label, detail, Settings(enabled=True, main_adapter=adapter), with_text)


def _co_row(
    label: str, adapter: AdapterSettings, with_text: bool = False, main: AdapterSettings = NO_ADAPTER
) -> Method:
    [slot] = CO_MODEL.co_models
    settings = replace(CO_MODEL, main_adapter=main, co_models=(replace(slot, adapter=adapter.adapter),))
    detail = f"K {CO_MODEL.steps}; eta {CO_MODEL.eta:g}; co-model gamma {slot.gamma:g} eta {slot.eta:g} {slot.noise}"
    return _adapter_row(label, detail, settings, with_text)


ADAPTER_METHODS: dict[str, Method] = {
    "untold": _main_row("`shapes` alone", "given nothing", NO_ADAPTER),
    "layout-main": _main_row("layout adapter on `shapes`", "in all steps; boxes", LAYOUT),
    "layout-amdm": _co_row("**AMDM, layout adapter**", LAYOUT),
    "image-main": _main_row("image adapter on `shapes`", "in all steps; reference picture", IMAGE, with_text=True),
    "image-amdm": _co_row("**AMDM, image adapter**", IMAGE, with_text=True),
    "layout-image-amdm": _co_row("**AMDM, layout on main, image adapter**", IMAGE, main=LAYOUT),
}
"""The rows with adapters.

The text of the layout rows is empty: boxes alone say what is where. The text of the image rows is the checkpoint's
dialect. So "shape" is the share of objects in their boxes' cells, and "colour" and "background" are agreement with the
reference picture. Boxes and reference pictures are of drawings of the scene from the picture's seed.
"""

PROJECTED_METHODS: dict[str, Method] = {
    "all-projected": Method(f"`{EVERYTHING}`", "projected", on(Ordered(EVERYTHING), projected=(EVERYTHING,))),
    "average-projected": Method("two predictions averaged", "both projected", on(average, projected=PAIR)),
    "amdm-co-projected": Method(
        "AMDM, defaults", "the co-model projected", on(Ordered(settings=DEFAULTS), projected=("colours",))
    ),
    "amdm-projected": Method("AMDM, defaults", "both projected", on(Ordered(settings=DEFAULTS), projected=PAIR)),
}
"""Rows that are not in the table, with projected guidance."""

FLOW_MAIN, FLOW_OTHER = FLOW_OF
FLOW_BEST = mixing(FLOW_OTHER, steps=AUTO, evaluations=4, gamma=0.5, co_eta=0.0)
FLOW_METHODS: dict[str, Method] = {
    **{name: alone_row(name) for name in FLOW_OF},
    "flow-average": Method("two predictions averaged", "all steps", partial(average, names=tuple(FLOW_OF))),
    **{
        f"flow-amdm-e{count or 'all'}": amdm_row("AMDM", replace(FLOW_BEST, evaluations=count), FLOW_MAIN)
        for count in (3, 4, 5, 0)
    },
    **{
        f"flow-amdm-{rule}": amdm_row("AMDM with a pull", pulled(FLOW_BEST, rule), FLOW_MAIN)
        for rule in ("relative", "norm", "own")
    },
    "flow-amdm-eps": amdm_row("AMDM, an eps co-model", BEST, FLOW_MAIN),
    "eps-amdm-flow": amdm_row("AMDM, a flow co-model", FLOW_BEST),
}
"""Rows that are not in the table: their checkpoints are not among the bundled ones."""

[WIDE, _] = WIDE_OF


def _defaults_row(main: str, *others: str, noise: str = "shared", evaluations: int | Literal["auto"] = AUTO) -> Method:
    slots = tuple(CoModel(checkpoint=name, noise=noise) for name in others)
    settings = Settings(enabled=True, evaluations=evaluations, co_models=slots)
    count = "" if evaluations == AUTO else f", {evaluations} evaluations"
    models = " and ".join(f"`{name}`" for name in others)
    return Method("AMDM, defaults", f"`{main}` with {models}, noise {noise}{count}", Ordered(main, settings))


def _redrawn_row(first: str, then: str, share: float, is_finished: bool) -> Method:
    label = "img2img" if is_finished else "refiner through pixels"
    draw = partial(redrawn, first=first, then=then, share=share, is_finished=is_finished)
    return Method(label, f"`{first}`, then `{then}` from {share:.0%} of the steps on", draw)


WIDE_METHODS: dict[str, Method] = {
    **{name: alone_row(name) for name in WIDE_OF},
    "amdm-pixels": _defaults_row(MAIN, WIDE),
    "amdm-pixels-back": _defaults_row(WIDE, MAIN),
    "amdm-pixels-e5": _defaults_row(MAIN, WIDE, evaluations=5),
    "amdm-pixels-e5-back": _defaults_row(WIDE, MAIN, evaluations=5),
    "amdm-pixels-three": _defaults_row(MAIN, WIDE, "backgrounds"),
    **{f"amdm-pixels-{name}": _defaults_row(MAIN, name) for name in WIDE_OF if name != WIDE},
    **{f"amdm-pixels-{name}-back": _defaults_row(name, MAIN) for name in WIDE_OF if name != WIDE},
    **{
        f"amdm-{noise}{back}": _defaults_row(main, co, noise=noise)
        for noise in ("shared", "estimate", "pixels")
        for back, main, co in (("-same", *PAIR), ("-same-back", *reversed(PAIR)))
    },
    **{
        f"{'img2img' if is_finished else 'refined'}-{round(100 * share)}{back}": _redrawn_row(*pair, share, is_finished)
        for is_finished in (False, True)
        for share in (0.3, 0.5)
        for back, pair in (("", (MAIN, WIDE)), ("-back", (WIDE, MAIN)))
    },
}
"""Rows that are not in the table: through pixels, where a checkpoint has another latent space or could share it."""
