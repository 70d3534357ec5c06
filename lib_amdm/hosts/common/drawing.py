"""Further pictures with other models, drawn in addition to the requested ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from modules import extra_networks, images, processing, shared
from PIL import Image

from ...comodels.prompts import is_main_prompt, prompt_of
from ..protocol import ModelAlone, Pictures
from ..webui_types import Processed, Processing
from .styles import with_styles

MARGIN = 4
"""Pixels between a grid's pictures."""
MODULES = "forge_additional_modules"
"""The option "VAE / Text Encoder" of Forge and Forge Neo."""


def snapshot(p: Processing) -> Processing:
    """Copy a picture's processing object before processing starts, which consumes its inputs."""
    copied = copy.copy(p)
    copied.extra_generation_params = dict(p.extra_generation_params)
    copied.override_settings = dict(p.override_settings)
    return copied


def redraw_job(before: Processing, p: Processing, model: ModelAlone) -> Processing:
    """Return the processing object for the pictures of `p` with a model alone. before: the result of `snapshot`."""
    job = snapshot(before)
    # as other scripts have changed them, with the styles inserted
    is_main = not model.checkpoint
    prompt, negative_prompt = with_styles(model.prompt), with_styles(model.negative_prompt, negative=True)
    job.prompt = _prompts(prompt, p.all_prompts, is_main)
    job.negative_prompt = _prompts(negative_prompt, p.all_negative_prompts, is_main)
    job.styles = []
    if getattr(p, "enable_hr", False):
        job.hr_prompt = _prompts(prompt, p.all_hr_prompts, is_main)
        job.hr_negative_prompt = _prompts(negative_prompt, p.all_hr_negative_prompts, is_main)
    job.seed, job.subseed = list(p.all_seeds), list(p.all_subseeds)
    job.cfg_scale = model.cfg_scale or job.cfg_scale
    job.do_not_save_grid = True
    if model.checkpoint:
        job.override_settings["sd_model_checkpoint"] = model.checkpoint
    if model.modules and MODULES in shared.opts.data_labels:
        job.override_settings[MODULES] = [*model.modules]
    return job


def _prompts(setting: str, main: Sequence[str], is_main: bool) -> list[str]:
    """Return the prompts of all pictures of a model alone. setting: the model's own prompt, with styles inserted."""
    return [_prompt_alone(setting, of_picture, is_main) for of_picture in main]


def _prompt_alone(setting: str, main: str, is_main: bool) -> str:
    """Return the prompt of a model alone: the main prompt's LoRAs act on the main model, whatever its text is."""
    if is_main and is_main_prompt(setting):
        return main
    (text, loras), (main_text, main_loras) = (_without_loras(prompt) for prompt in (setting, main))
    return "".join([prompt_of(text, main_text), *loras, *(main_loras if is_main else ())])


def _without_loras(prompt: str) -> tuple[str, list[str]]:
    """Return a prompt without its LoRAs and other extra networks, and these."""
    pattern = extra_networks.re_extra_net
    return pattern.sub("", prompt), [match[0] for match in pattern.finditer(prompt)]


def pictures_of(processed: Processed) -> Pictures:
    """Return the single pictures of a result with their infotexts, without grids and masks."""
    first = processed.index_of_first_image
    drawn, texts = processed.images[first:], processed.infotexts[first:]
    # masks follow their pictures, and have no infotext
    apart = max(len(drawn) // max(len(texts), 1), 1)
    return list(zip(drawn[::apart], texts))


def draw(p: Processing) -> Pictures:
    """Draw while another picture is being completed."""
    return pictures_of(processing.process_images(p))


def grid(p: Processing, columns: Sequence[tuple[str, Sequence[Image.Image]]], text: str) -> Image.Image:
    """Return a grid with a caption above each column, and the seeds at the left if it has several rows.

    It is saved by the user's settings for grids, with an infotext.
    """
    width = max(picture.width for _, column in columns for picture in column)
    height = max(picture.height for _, column in columns for picture in column)
    rows = max(len(column) for _, column in columns)
    # the host splits it again, and puts the margin between the pictures
    joined = Image.new("RGB", (len(columns) * width, rows * height), "white")
    for x, (_, column) in enumerate(columns):
        for y, picture in enumerate(column):
            joined.paste(picture.convert("RGB"), (x * width, y * height))
    captions = [[images.GridAnnotation(caption)] for caption, _ in columns]
    seeds = [[images.GridAnnotation(f"seed {seed}" if rows > 1 else "")] for seed in p.all_seeds[:rows]]
    labelled = images.draw_grid_annotations(joined, width, height, captions, seeds, MARGIN)
    if shared.opts.enable_pnginfo:
        labelled.info["parameters"] = text
    if shared.opts.grid_save:
        place = (p.outpath_grids, "amdm-compare", p.all_seeds[0], p.all_prompts[0], shared.opts.grid_format)
        images.save_image(labelled, *place, info=text, p=p, grid=True)
    return labelled


def expect_rounds(p: Processing, rounds: int) -> None:
    """Make the progress bar count this number of rounds of a request's pictures."""
    if shared.state.job_count == -1:
        shared.state.job_count = p.n_iter * rounds


def is_interrupted() -> bool:
    """Return True if the user wants no more pictures."""
    return bool(shared.state.interrupted or getattr(shared.state, "stopping_generation", False))


def runs_a_script(p: Processing) -> bool:
    """Return True if a script chosen below the panels draws these pictures, such as a plot."""
    chosen = p.script_args[0] if p.script_args else 0
    return isinstance(chosen, int) and not isinstance(chosen, bool) and chosen > 0
