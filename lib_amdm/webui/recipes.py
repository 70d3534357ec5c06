"""Recipes: what two or three models are good for, each with its settings, for the panel and for docs/recipes.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..comodels.prompts import MAIN_PROMPT
from ..hosts.protocol import Lists
from ..settings import MAIN_CHECKPOINT, NO_CHECKPOINT, CoModel, Settings
from . import fitting

ANOTHER, A_THIRD = "another checkpoint", "a third checkpoint"
"""Stand in a recipe's settings for files that only the user knows."""
UNPROVEN = "Not drawn with published weights yet."
ALL_STEPS = 150
"""The largest number of steps; a picture with fewer is mixed to its end."""
LORA = "NAME"
"""Stands for a LoRA's name."""
USUAL = {"Steps": "20", "Sampler": "Euler", "Schedule type": "Automatic", "CFG scale": "5", "Size": "1024x1024"}


class PanelRecipe(NamedTuple):
    """A recipe in a user's words.

    settings: with `ANOTHER` and `A_THIRD` instead of checkpoints. picture: the WebUI's own settings by their names
    in an infotext. missing: what the user has to write, as no list has it.
    """

    name: str
    purpose: str
    choose: str
    expect: str
    change: str
    settings: Settings
    picture: Mapping[str, str] = USUAL
    missing: str = ""


RECIPES = (
    PanelRecipe(
        "Composition from one, finish from the other",
        "The co-model arranges the picture and the main checkpoint finishes it: the poses and scenes of an Illustrious "
        "or Pony model with the skin, light and textures of a realistic SDXL one.",
        "The main checkpoint is the one for the finish, Co-model 1 the one for the composition. If that needs tags, "
        f"write them into its prompt: score_9, score_8_up, {MAIN_PROMPT}.",
        "The co-model's pose, framing and background, drawn by the main checkpoint.",
        "steps: fewer if the picture looks like the co-model's, more if its composition is lost. Then gamma.",
        Settings(enabled=True, co_models=(CoModel(checkpoint=ANOTHER, gamma=0.8),)),
    ),
    PanelRecipe(
        "Style of one on the content of the other",
        "The main checkpoint decides what is in the picture, and the co-model how it looks.",
        "The main checkpoint is the one that follows your prompts, Co-model 1 the one with the style. The co-model's "
        "prompt must say what is in the picture: leave it empty, or add words to the main prompt: "
        f"{MAIN_PROMPT}, watercolour.",
        "The co-model's style in the whole picture, and some details of the content less exact than without it.",
        "gamma: 0.6 if too much of the content is lost. Then evaluations: 6 give more of the content, and less style.",
        Settings(enabled=True, steps=ALL_STEPS, co_models=(CoModel(checkpoint=ANOTHER, gamma=0.8),)),
    ),
    PanelRecipe(
        "Base and turbo of one family",
        "A turbo model (Z-Image Turbo, SDXL Lightning, DMD2, LCM) draws in a few steps without guidance, and its base "
        "model helps with guidance in the first of them.",
        "The main checkpoint is the turbo, Co-model 1 its base. Set Sampling steps, sampler and CFG scale as the turbo "
        "needs them, such as 8 steps and CFG 1. The co-model has a CFG scale of 4.",
        "More of the prompt and the negative prompt than from the turbo alone, and more variety between seeds. With 8 "
        "steps the 4 guided evaluations of the base about double the time.",
        "CFG scale of co-model 1, from 3 to 6. Then gamma.",
        Settings(enabled=True, co_models=(CoModel(checkpoint=ANOTHER, cfg_scale=4.0),)),
        {**USUAL, "Steps": "8", "CFG scale": "1"},
    ),
    PanelRecipe(
        "A LoRA in the first steps only",
        "A LoRA that is good for poses or composition and bad for details decides the first steps, and the main "
        "checkpoint draws the rest without it.",
        f"In the prompt of Co-model 1, write the LoRA's name instead of {LORA}, and its trigger words. Leave the LoRA "
        "out of the main prompt.",
        "The LoRA's composition, with the details that the checkpoint has without it. No further checkpoint is loaded.",
        "steps: 1 or 2 for a turbo with 8 steps, 4 to 6 for 20. Then the LoRA's weight.",
        Settings(
            enabled=True,
            steps=4,
            evaluations=0,
            co_models=(CoModel(checkpoint=MAIN_CHECKPOINT, gamma=1.0, prompt=f"{MAIN_PROMPT} <lora:{LORA}:1>"),),
        ),
        missing=f"the LoRA's name, instead of {LORA} in the prompt of Co-model 1.",
    ),
    PanelRecipe(
        "A v-prediction and an eps model",
        "NoobAI v-prediction alongside an Illustrious or NoobAI eps model: both kinds of prediction in one picture.",
        "The main checkpoint is the eps model, Co-model 1 the v-prediction one, with a CFG scale of 4.5. Set the "
        "sampler and its schedule as the main checkpoint needs them.",
        "The v-prediction model's darks, lights and colours in a picture that the eps model finishes.",
        "gamma: 0.7 for stronger colours. Then CFG scale of co-model 1: 3.5 if they are burnt.",
        Settings(enabled=True, co_models=(CoModel(checkpoint=ANOTHER, cfg_scale=4.5),)),
    ),
    PanelRecipe(
        "Instead of the refiner, hires fix included",
        "The picture passes gradually from the main checkpoint to the co-model, in both passes of hires fix, and not "
        "in one step, as with a refiner.",
        "Co-model 1 is the checkpoint that refines, of the main one's kind. SDXL's own refiner was not tested. Leave "
        "the WebUI's Refiner closed.",
        "The main checkpoint's composition, and more of the co-model's finish the later it is.",
        "gamma end: 0.7 if there is too much of the co-model. Then evaluations: 12 if details are not sharp.",
        Settings(
            enabled=True,
            steps=ALL_STEPS,
            evaluations=8,
            which_pass="both",
            co_models=(CoModel(checkpoint=ANOTHER, gamma=0.0, gamma_end=1.0),),
        ),
        {
            **USUAL,
            "Denoising strength": "0.5",
            "Hires upscale": "1.5",
            "Hires steps": "20",
            "Hires upscaler": "Latent",
        },
    ),
    PanelRecipe(
        "Two regions, two checkpoints",
        "The main checkpoint draws the left half and the co-model the right one; then the main checkpoint finishes the "
        "whole picture.",
        "Co-model 1 is the checkpoint for the right half. Describe the whole scene in the main prompt, and in the "
        f"co-model's only what is in its half, or {MAIN_PROMPT} and more words.",
        "Two things or characters that stay apart, each from the model that draws it best, in one scene.",
        "The region: draw it with the pointer. Then feather, and steps: fewer if the halves do not fit together.",
        Settings(enabled=True, co_models=(CoModel(checkpoint=ANOTHER, gamma=1.0, region="0.5 0 1 1", feather=0.1),)),
    ),
    PanelRecipe(
        "Three models",
        "Two co-models at once: one for the characters, one for the scenery, and the main checkpoint for the finish.",
        "Co-model 1 and Co-model 2 are two more checkpoints. Write into each prompt what that model is for.",
        "Something of each model. The second co-model is mixed in after the first, so the shares in the early steps "
        "are 15 % of the main checkpoint, 35 % and 50 %.",
        "gamma of the co-model that is too strong. Then evaluations: 7 if one of them is hardly seen.",
        Settings(
            enabled=True,
            evaluations=5,
            co_models=(CoModel(checkpoint=ANOTHER, gamma=0.7), CoModel(checkpoint=A_THIRD, gamma=0.5)),
        ),
    ),
)


def filled(recipe: PanelRecipe, host: Lists, chosen: Sequence[str | None]) -> tuple[Settings, str]:
    """Return a recipe's settings with the user's own checkpoints, and lines about it; the first says what is missing.

    chosen: the checkpoints of the panel's co-models, which are kept if they can be used. Otherwise one of the list is
    taken that shares the main one's latents, or is of unknown family.
    """
    others = fitting.others(host)
    usable = (*others.sharing, *others.silent, *others.crossing)
    known = [_known(host, name, usable) for name in chosen[: len(recipe.settings.co_models)]]
    free = [title for title in (*others.sharing, *others.silent) if title not in known]
    co_models, missing = [], [recipe.missing] if recipe.missing else []
    for number, slot in enumerate(recipe.settings.co_models, 1):
        if slot.checkpoint in (ANOTHER, A_THIRD):
            title_before = known[number - 1] if number <= len(known) else None
            title = title_before or (free.pop(0) if free else NO_CHECKPOINT)
            if title == NO_CHECKPOINT:
                missing.append(f"a checkpoint of the main one's kind for Co-model {number}.")
            slot = replace(slot, checkpoint=title)
        co_models.append(slot)
    lines = [f"Missing: {' '.join(missing)}"] if missing else []
    lines += [f"Choose: {recipe.choose}", f"Expect: {recipe.expect}", f"Change first: {recipe.change}", UNPROVEN]
    return replace(recipe.settings, co_models=tuple(co_models)), "\n".join(lines)


def _known(host: Lists, name: str | None, usable: Sequence[str]) -> str | None:
    """Return the present title of a chosen checkpoint, or None if it cannot be used."""
    title = None if name in (None, "", NO_CHECKPOINT, MAIN_CHECKPOINT) else host.checkpoint_title(name)
    return title if title in usable else None
