"""What the demo and its page draw, and how the bundled checkpoints are mixed and told of it."""

from __future__ import annotations

from dataclasses import replace

from ...settings import Settings
from ..benchmark.methods import BEST
from ..bundled import DIALECT_OF
from ..world.captions import caption
from ..world.scenes import Scene, Thing

MIX = BEST
"""How the demo and its page run the bundled checkpoints together."""
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


def told(checkpoint: str, scene: Scene) -> str:
    """The scene in the words that a bundled checkpoint was taught."""
    return caption(scene, DIALECT_OF[checkpoint])


def mix_for(scene: Scene, mix: Settings) -> Settings:
    """`mix` with each co-model told the scene in its own words."""
    return replace(mix, co_models=tuple(replace(s, prompt=told(s.checkpoint, scene)) for s in mix.co_models))
