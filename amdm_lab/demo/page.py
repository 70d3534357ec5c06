"""The demo's page: the panel of the WebUI's accordion on the bundled checkpoints, in a browser, without a WebUI."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from lib_amdm.comodels.prompts import prompt_of
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.protocol import ModelAlone
from lib_amdm.settings import Settings, SettingsError
from lib_amdm.webui import compare
from lib_amdm.webui.api import read_args
from lib_amdm.webui.panel import build_panel

from .. import sheets
from ..bundled import ADAPTERS, WEIGHTS
from ..shapes.rows import MAIN, words
from ..sheets import Form
from ..studio.host import Job, Result, Standalone, sampler_names
from .example import BUNDLED, CFG_SCALE, SAMPLER, SCENES, STEPS, bundled_example

ADDRESS = "127.0.0.1"
EXTENSION = Path(__file__).resolve().parents[2]
SLOTS = 3
MOST_PICTURES = 8
MOST_SEED = 2**32 - 1
INTRODUCTION = (
    "# AMDM: run two checkpoints at once\n"
    "The first checkpoint here was taught shapes and no colours, the second one colours and no shapes. Press Generate."
)
PICTURES = "amdm-pictures"
STYLE = f"""
/* the label and the buttons stand above the pictures; a gallery is as high as these, and higher for a large one */
.{PICTURES} .grid-wrap.fixed-height {{ max-height: none; min-height: 0; overflow-y: auto; padding-top: 36px; }}
.{PICTURES}:has(.preview) .grid-wrap.fixed-height {{ min-height: 26rem; }}
.{PICTURES} .empty {{ min-height: 8rem; }}
"""
FORM = Form(font=13, line=18, left=0, margin=8)
LETTERS = 16
"""Of a line of a caption above a column of pictures."""


def build(host: Standalone) -> gr.Blocks:
    """Build the page for a host's checkpoints, with an example filled in."""
    with gr.Blocks(title="AMDM", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column():
                inputs = [*_controls(host), *_panel(host)]
            with gr.Column():
                button = gr.Button("Generate", variant="primary", elem_id="generate")
                shown: dict[str, Any] = {"columns": 4, "object_fit": "contain", "format": "png"}
                shown["elem_classes"] = [PICTURES]
                alone = gr.Gallery(label="Without AMDM", elem_id="without", **shown)
                together = gr.Gallery(label="With AMDM", elem_id="with", **shown)
                compared = gr.Image(label="Compared", show_label=False, elem_id="compared", visible=False, format="png")
                line = gr.Markdown(elem_id="said")
        button.click(_drawing(host), inputs, [alone, together, compared, line], api_name="generate")
    return page


def _controls(host: Standalone) -> list[Any]:
    """Build the main model's controls, in the order of `_drawing`'s arguments."""
    checkpoints = host.checkpoint_titles()
    with gr.Row():
        checkpoint = gr.Dropdown(
            checkpoints, value=host.checkpoint_title(MAIN), label="Main checkpoint", elem_id="checkpoint"
        )
        host.refresh_button(
            checkpoint, host.refresh_checkpoints, lambda: {"choices": host.checkpoint_titles()}, "checkpoint_refresh"
        )
    prompt = gr.Textbox(words(MAIN, SCENES[0]), label="Prompt", lines=2, elem_id="prompt")
    negative = gr.Textbox("", label="Negative prompt", elem_id="negative_prompt")
    with gr.Row():
        sampler = gr.Dropdown(sampler_names(), value=SAMPLER, label="Sampler", elem_id="sampler")
        steps = gr.Slider(1, 150, value=STEPS, step=1, label="Sampling steps", elem_id="sampling_steps")
        cfg_scale = gr.Slider(1, 30, value=CFG_SCALE, step=0.5, label="CFG scale", elem_id="cfg_scale")
    with gr.Row():
        seed = gr.Number(-1, minimum=-1, maximum=MOST_SEED, precision=0, label="Seed (-1 = a new one)", elem_id="seed")
        count = gr.Slider(1, MOST_PICTURES, value=4, step=1, label="Pictures", elem_id="count")
    return [checkpoint, prompt, negative, sampler, steps, cfg_scale, seed, count]


def _panel(host: Standalone) -> list[Any]:
    examples = {name: partial(bundled_example, name) for name in BUNDLED}
    start, _ = bundled_example(next(iter(BUNDLED)), host)
    # as in img2img, there is no hires pass here
    return build_panel(host, SLOTS, "img2img", "amdm_{}".format, start, offered=examples).components


def _drawing(host: Standalone) -> Callable[..., tuple[Any, ...]]:
    def draw(
        checkpoint: str,
        prompt: str,
        negative: str,
        sampler: str,
        steps: int,
        cfg_scale: float,
        seed: int | None,
        count: int,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - gradio finds it by its default
        *panel: Any,
    ) -> tuple[Any, ...]:
        """Draw the pictures without and with AMDM from the same seeds, and by each model alone if "compare" is on.

        Return them and a line on them.
        """
        first = random.randint(0, MOST_SEED) if seed in (None, -1) else seed
        seeds = range(first, first + count)
        job = Job(checkpoint or "", [prompt] * count, seeds, negative, sampler, steps, cfg_scale)

        def run(job: Job, settings: Settings | None, name: str) -> Result:
            return host.generate(job, settings, lambda done, of: progress((done, of), desc=name))

        try:
            settings = read_args(panel)
            # first, because most of what can be wrong is wrong here
            together = run(job, settings, "with AMDM") if settings.runs else None
            alone = run(job, None, "without AMDM")
            grid = None
            if settings.compare and settings.mixes and together:
                runs = compare.models(settings, host.checkpoint_title)
                columns = [(one.caption, run(_alone(job, one.model), one.settings, one.caption)) for one in runs]
                grid = _grid([*columns, (compare.TOGETHER, together)])
        except (AmdmError, SettingsError) as error:
            # gradio takes the text for HTML, and it may quote a prompt
            raise gr.Error(escape(str(error)), title="Not drawn", duration=None, print_exception=False) from error
        shown = gr.update(value=grid, visible=grid is not None)
        return alone.pictures, together.pictures if together else None, shown, _summary(first, alone, together)

    return draw


def _alone(job: Job, model: ModelAlone) -> Job:
    """Return the job for one model alone, with its slot's own texts and guidance."""
    return replace(
        job,
        checkpoint=model.checkpoint or job.checkpoint,
        prompts=[prompt_of(model.prompt, prompt) for prompt in job.prompts],
        negative_prompts=[prompt_of(model.negative_prompt, negative) for negative in job.negatives],
        cfg_scale=model.cfg_scale or job.cfg_scale,
    )


def _grid(columns: Sequence[tuple[str, Result]]) -> Image.Image:
    """Draw a column of pictures below each caption, and a row for each seed."""
    labels = [f"seed {seed}" for seed in columns[0][1].seeds]
    rows = [[Image.fromarray(result.pictures[n]) for _, result in columns] for n in range(len(labels))]
    left = max(int(sheets.text_width(label, FORM)) for label in labels) + FORM.margin
    return sheets.sheet(
        rows, [textwrap.wrap(caption, LETTERS) for caption, _ in columns], labels, replace(FORM, left=left)
    )


def _summary(seed: int, alone: Result, together: Result | None) -> str:
    """Sum up the pictures and their cost in a line."""
    line = f"Seed {seed}. Without AMDM: {alone.evaluations} evaluations, {alone.seconds:.2f} s."
    if together is None:
        return f"{line} AMDM is off, or nothing is set for it to run."
    co_evaluations = " + ".join(str(count) for count in together.co_evaluations if count)
    evaluations = f"{together.evaluations} + {co_evaluations}" if co_evaluations else f"{together.evaluations}"
    return " ".join([line, f"With AMDM: {evaluations} evaluations, {together.seconds:.2f} s.", *together.comments])


def _head() -> str:
    """Return what a WebUI's page loads from an extension: its scripts and its style sheet.

    They are in the folder of the package. Without them there is only the layout's text field.
    """
    style = "".join(file.read_text(encoding="utf-8") for file in EXTENSION.glob("style.css"))
    scripts = [file.read_text(encoding="utf-8") for file in sorted(EXTENSION.glob("javascript/*.js"))]
    return f"<style>{style}{STYLE}</style>" + "".join(f"<script>{script}</script>" for script in scripts)


def serve(port: int, folder: Path = WEIGHTS) -> None:
    """Show the page on this machine alone until it is interrupted; AmdmError if the port is taken."""
    page = build(Standalone(folder, adapter_folders=[ADAPTERS]))
    bare = {"footer_links": [], "run_history": False, "share": False, "quiet": True, "head": _head()}
    try:
        page.launch(server_name=ADDRESS, server_port=port, show_error=True, prevent_thread_lock=True, **bare)
    except OSError as error:
        raise AmdmError(f"Port {port} of this machine is taken; choose another one with --port.") from error
    print(f"The page is at http://{ADDRESS}:{port} until you press Ctrl+C.", flush=True)
    page.block_thread()
