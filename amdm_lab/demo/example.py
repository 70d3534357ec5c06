"""The example of the demo and its page: scenes, their prompts, and how the bundled checkpoints are mixed."""

from __future__ import annotations

from dataclasses import replace

from lib_amdm.settings import Settings

from ..bundled import DIALECT_OF
from ..shapes.methods import BEST
from ..world.captions import caption
from ..world.scenes import Scene, Thing

MIX = BEST
"""The settings with which the demo and its page run the bundled checkpoints together."""
SCENES = (
    Scene((Thing("circle", "red"), None, None, Thing("cross", "blue")), "plain"),
    Scene((None, Thing("triangle", "yellow"), Thing("square", "purple"), None), "striped"),
    Scene((Thing("diamond", "green"), Thing("square", "white"), None, Thing("circle", "black")), "dotted"),
    Scene(
        (Thing("square", "brown"), Thing("circle", "yellow"), Thing("triangle", "blue"), Thing("cross", "red")), "plain"
    ),
)
FIRST_SEED = 1
STEPS = 20
CFG_SCALE = 5.0
SAMPLER = "euler"


def prompt_for(checkpoint: str, scene: Scene) -> str:
    """Describe the scene in the dialect that a bundled checkpoint was taught."""
    return caption(scene, DIALECT_OF[checkpoint])


def mix_for(scene: Scene, mix: Settings) -> Settings:
    """Return `mix` with a prompt for each co-model in its own dialect."""
    return replace(mix, co_models=tuple(replace(s, prompt=prompt_for(s.checkpoint, scene)) for s in mix.co_models))
