"""The recipes: docs/recipes.md has each as the panel has it, and pasting its infotext gives its settings."""

from __future__ import annotations

import re
import textwrap
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_host import TITLES, FakeHost
from test_infotext import expanded, pasted, quoted, read

from lib_amdm.core.levels import Level
from lib_amdm.core.plan import EVALUATIONS, automatic_steps
from lib_amdm.families import Family
from lib_amdm.settings import CoModel, Settings, flat
from lib_amdm.webui import infotext, plan_line, recipes
from lib_amdm.webui.recipes import ANOTHER, RECIPES, UNPROVEN, PanelRecipe

ALPHA, BETA, GAMMA = TITLES
SLOTS = 3
PAGE = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
fill = partial(textwrap.fill, width=128, break_long_words=False, break_on_hyphens=False)
PROMPT = "a lighthouse on a cliff, at sunset\nNegative prompt: blurry"
EACH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def section(recipe: PanelRecipe) -> str:
    """A recipe's part of the page."""
    number = RECIPES.index(recipe) + 1
    pairs = {**recipe.picture, **infotext.written(recipe.settings, {})}
    told = {"Settings": changed(recipe.settings), **parts(recipe)}
    return "\n".join(
        [
            f"## {number}. {recipe.name}\n",
            f"{fill(recipe.purpose)}\n",
            *(fill(f"- **{head}**: {text}", subsequent_indent="  ") for head, text in told.items()),
            "\n```",
            PROMPT,
            ", ".join(f"{key}: {quoted(value)}" for key, value in pairs.items()),
            "```\n",
            f"*{UNPROVEN}*\n",
        ]
    )


def parts(recipe: PanelRecipe) -> dict[str, str]:
    of_both = {"Choose": recipe.choose, "Expect": recipe.expect, "Change first": recipe.change}
    return {head: re.sub(r"(\{prompt\}|\bNAME\b)", r"`\1`", text) for head, text in of_both.items()}


def changed(settings: Settings) -> str:
    """The settings that are not at their default, and the co-models."""
    by_slot: dict[int, list[str]] = {number: [] for number in range(len(settings.co_models) + 1)}
    for number, spec in flat(len(settings.co_models)):
        value = settings.value(number, spec)
        if value != spec.default and spec.name != "enabled":
            by_slot[number].append(f"`{spec.label}` {f'`{value}`' if spec.type is str else infotext.as_text(value)}")
    told = [f"co-model {number}: {', '.join(by_slot[number])}" for number in by_slot if number]
    return "; ".join([", ".join(by_slot[0])] * bool(by_slot[0]) + told) + "."


def filled(recipe: PanelRecipe, host: FakeHost, *chosen: str | None) -> tuple[Settings, str]:
    settings, said = recipes.filled(recipe, host, chosen)  # type: ignore[arg-type]
    return settings, said


def wanted(recipe: PanelRecipe) -> list[int]:
    """The co-models that need a file of the user's, from 0."""
    return [number for number, slot in enumerate(recipe.settings.co_models) if slot.checkpoint != "main"]


@EACH
def test_the_page_has_the_recipe_as_the_panel_has_it(recipe: PanelRecipe) -> None:
    assert section(recipe) in PAGE


def test_the_page_has_no_recipe_beyond_the_panels() -> None:
    assert re.findall(r"^## \d+\. (.*)$", PAGE, re.M) == [recipe.name for recipe in RECIPES]


@EACH
def test_pasting_its_infotext_gives_its_settings(recipe: PanelRecipe) -> None:
    text = re.findall(r"^```\n(.*?)\n```$", PAGE, re.M | re.S)[RECIPES.index(recipe)]
    assert text.startswith(PROMPT)
    params = read(text)
    size = recipe.picture["Size"].split("x")
    assert {**recipe.picture, "Size-1": size[0], "Size-2": size[1]}.items() >= {
        key: value for key, value in params.items() if not key.startswith("AMDM")
    }.items()
    slots = (*recipe.settings.co_models, *(CoModel(),) * (SLOTS - len(recipe.settings.co_models)))
    assert pasted(expanded(params, SLOTS), SLOTS) == replace(recipe.settings, co_models=slots)


@EACH
def test_it_mixes_and_the_panel_objects_only_to_files_that_the_user_has_to_choose(recipe: PanelRecipe) -> None:
    settings = Settings.from_dict(recipe.settings.to_dict())
    assert settings == recipe.settings and settings.mixes and len(settings.active) == len(settings.co_models) <= SLOTS
    said = plan_line.say(settings, FakeHost())  # type: ignore[arg-type]
    assert len(re.findall("is not in the list", said)) == len(wanted(recipe))
    assert all(f"Co-model {number + 1}" in said for number in wanted(recipe))


@EACH
def test_what_names_no_file_is_filled_in_and_files_are_those_of_the_list(recipe: PanelRecipe) -> None:
    host = FakeHost()
    host.main = ALPHA
    settings, said = filled(recipe, host)
    checkpoints = dict(zip(wanted(recipe), (BETA, GAMMA)))
    expected = [replace(s, checkpoint=checkpoints.get(n, "main")) for n, s in enumerate(recipe.settings.co_models)]
    assert settings == replace(recipe.settings, co_models=tuple(expected))
    assert plan_line.say(settings, host) == ""  # type: ignore[arg-type]
    assert ("Missing" in said) == bool(recipe.missing)
    assert said.endswith(UNPROVEN) and all(text in said for text in (recipe.choose, recipe.expect, recipe.change))


def test_a_checkpoint_of_the_main_ones_kind_comes_first() -> None:
    host = FakeHost()
    host.main, host.families = ALPHA, {ALPHA: Family("SDXL"), BETA: Family("SD1"), GAMMA: Family("SDXL")}
    one, three = RECIPES[0], RECIPES[-1]
    assert filled(one, host)[0].co_models[0].checkpoint == GAMMA
    # one that is run through pixels is never taken unless it was chosen
    settings, said = filled(three, host)
    assert [slot.checkpoint for slot in settings.co_models] == [GAMMA, "None"]
    assert said.startswith("Missing: a checkpoint of the main one's kind for Co-model 2.\n")
    settings, said = filled(three, host, "None", BETA, None)
    assert [slot.checkpoint for slot in settings.co_models] == [GAMMA, BETA]
    assert "Missing" not in said
    host.families[BETA] = Family("SDXL", "inpainting")
    assert filled(three, host, BETA)[0].co_models[0].checkpoint == GAMMA, "it cannot be combined"


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        ([GAMMA], GAMMA),
        (["styles/beta.safetensors"], BETA),
        ([f"{GAMMA} [3333333333]"], GAMMA),
        (["main"], BETA),
        (["lost.safetensors"], BETA),
        ([ALPHA], BETA),
        ([""], BETA),
        # what another co-model has is free: a recipe for one empties it
        (["None", BETA], BETA),
        ([None, BETA], BETA),
    ],
)
def test_what_the_user_has_chosen_is_kept_if_it_can_be_used(chosen: list[Any], taken: str) -> None:
    host = FakeHost()
    host.main = ALPHA
    assert filled(RECIPES[0], host, *chosen)[0].co_models[0].checkpoint == taken


def test_without_another_checkpoint_the_panel_says_what_is_missing() -> None:
    host = FakeHost()
    host.main, host.titles = ALPHA, [ALPHA]
    settings, said = filled(RECIPES[0], host)
    assert said.startswith("Missing: a checkpoint of the main one's kind for Co-model 1.\n")
    assert "choose a checkpoint" in plan_line.say(settings, host)  # type: ignore[arg-type]
    assert not any(ANOTHER in slot.checkpoint for slot in settings.co_models)


def test_the_table_of_few_steps_is_what_auto_does() -> None:
    table = re.findall(r"^\| (\d+) \| (.*?) \| (\d+) \| (.*?) \|$", PAGE.split("## Few steps")[1], re.M)
    assert len(table) == 4
    for steps, sdxl, flow, evaluations in table:
        mixed = {
            automatic_steps(levels, SIZE) for levels in (sdxl_levels(int(steps), whole) for whole in (True, False))
        }
        of_flow = automatic_steps(flow_levels(int(steps), shift=3), SIZE)
        assert sorted(mixed) == [int(count) for count in re.findall(r"\d+", sdxl)]
        assert of_flow == int(flow)
        assert evaluations == (str(EVALUATIONS) if min(*mixed, of_flow) > EVALUATIONS else "all of them")


SIZE = (128, 128)
"""Of the latent of a picture of 1024x1024."""


def sdxl_levels(steps: int, whole: bool) -> list[Level]:
    """The levels of Euler: from all noise to the last training step (Automatic), or to one step more (SGM Uniform)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    logs = ((1 - kept) / kept).sqrt().log()
    times = torch.linspace(999, 0, steps if whole else steps + 1, dtype=torch.float64)[:steps]
    low = times.floor().long()
    between = torch.lerp(logs[low], logs[times.ceil().long()], times - low)
    return [Level(1.0, sigma) for sigma in [*between.exp().tolist(), 0.0]]


def flow_levels(steps: int, shift: float) -> list[Level]:
    times = [1 - step / steps for step in range(steps + 1)]
    shifted = [shift * time / (1 + (shift - 1) * time) for time in times]
    return [Level(1 - sigma, sigma) for sigma in shifted]
