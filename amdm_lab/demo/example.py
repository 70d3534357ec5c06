"""The example of the demo and its page: scenes, their prompts, and how the bundled checkpoints are mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lib_amdm.hosts.protocol import Lists
from lib_amdm.settings import MAIN_CHECKPOINT, CoModel, Settings

from ..bundled import IMAGE_ADAPTER, LAYOUT_ADAPTER
from ..shapes.methods import BEST, WIDE
from ..shapes.rows import words
from ..world.captions import phrases
from ..world.conditions import boxes_of
from ..world.scenes import Scene, Thing

MIX = BEST
"""The settings with which the demo and its page run the bundled checkpoints together."""
ACROSS = Settings(enabled=True, co_models=(CoModel(checkpoint=WIDE),))
"""The same with a checkpoint of another latent space, which is run through pixels."""
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


BUNDLED = {
    "Shapes and colours": (
        MIX,
        "shapes draws shapes and colours draws colours: write into each prompt what that checkpoint knows, and press "
        "Generate.",
    ),
    "Boxes for shapes": (
        replace(MIX, co_models=(replace(MIX.co_models[0], checkpoint=MAIN_CHECKPOINT, adapter=LAYOUT_ADAPTER.name),)),
        "shapes runs twice, the second time with the layout adapter: its boxes say where the shapes are. Choose shapes "
        "as the main checkpoint, and change the boxes.",
    ),
    "Colours from a picture": (
        replace(MIX, co_models=(replace(MIX.co_models[0], checkpoint=MAIN_CHECKPOINT, adapter=IMAGE_ADAPTER.name),)),
        "shapes runs twice, the second time with the image adapter: choose its image in Co-model 1, such as a picture "
        "that colours drew. Choose shapes as the main checkpoint.",
    ),
}
"""Examples for the bundled checkpoints and adapters, by their names: the settings, and what to do with them."""


def bundled_example(name: str, host: Lists, chosen: Sequence[str | None] = ()) -> tuple[Settings, str]:
    """Return an example's settings for the page's first scene, with the titles of the host's lists."""
    settings, advice = BUNDLED[name]
    [slot] = settings.co_models
    if slot.checkpoint != MAIN_CHECKPOINT:
        checkpoint = host.checkpoint_title(slot.checkpoint) or slot.checkpoint
        slot = replace(slot, checkpoint=checkpoint, prompt=words(slot.checkpoint, SCENES[0]))
    elif slot.adapter == LAYOUT_ADAPTER.name:
        [boxes] = boxes_of([SCENES[0]], [FIRST_SEED])
        lines = (f"{phrase}: {' '.join(f'{end:.2f}' for end in box)}" for phrase, box in zip(phrases(SCENES[0]), boxes))
        slot = replace(slot, layout="\n".join(lines))
    return replace(settings, co_models=(slot,)), advice


def mix_for(scene: Scene, mix: Settings) -> Settings:
    """Return `mix` with a prompt for each co-model in its own dialect."""
    return replace(mix, co_models=tuple(replace(s, prompt=words(s.checkpoint, scene)) for s in mix.co_models))
