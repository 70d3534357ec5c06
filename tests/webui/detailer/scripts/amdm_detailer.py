"""A detailer: a test-only extension that draws boxes of a finished picture again, in the order in which ADetailer does.

Its argument is JSON: {"boxes": [[[x0, y0, x1, y1], ...], ...], "whole": false, ...} has the boxes of each picture, in
its pixels; whatever else there is are attributes of the details.
"""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path
from typing import Any

import gradio as gr
from modules import script_callbacks, scripts, shared
from modules.processing import Processed, StableDiffusionProcessingImg2Img, process_images
from PIL import Image, ImageDraw

OPTION = "ad_script_names"


class Detailer(scripts.Script):
    """Draws details with the scripts of an option."""

    def title(self) -> str:
        return "AMDM detailer"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        return [gr.Textbox(value="", label="Details", elem_id=self.elem_id("request"))]

    def postprocess_image(self, p: Any, pp: Any, request: str = "", *args: Any) -> None:
        if not request or getattr(p, "_ad_disabled", False):
            return
        wanted = json.loads(request)
        boxes, whole = wanted.pop("boxes"), wanted.pop("whole", False)
        if p.batch_index == 0:
            p.scripts.postprocess(copy(p), Processed(p, [], p.seed, ""))
        for box in boxes[p.iteration * p.batch_size + p.batch_index]:
            processed = process_images(self.detail(p, pp.image, box, whole, wanted))
            pp.image = processed.images[0]
        if p.batch_index == p.batch_size - 1:
            again = copy(p)
            p.scripts.before_process(again)
            p.scripts.process(again)

    @staticmethod
    def detail(p: Any, picture: Any, box: list[int], whole: bool, attributes: dict[str, Any]) -> Any:
        number = p.iteration * p.batch_size + p.batch_index
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).rectangle(box, fill=255)
        given = {
            "prompt": p.all_prompts[number],
            "negative_prompt": p.all_negative_prompts[number],
            "seed": p.all_seeds[number],
            "sampler_name": p.sampler_name,
            "steps": p.steps,
            "cfg_scale": p.cfg_scale,
            "width": p.width,
            "height": p.height,
            "denoising_strength": 0.8,
            **attributes,
        }
        detail = StableDiffusionProcessingImg2Img(
            init_images=[picture],
            resize_mode=0,
            mask=mask,
            mask_blur=0,
            inpainting_fill=1,
            inpaint_full_res=not whole,
            inpaint_full_res_padding=0,
            outpath_samples=p.outpath_samples,
            outpath_grids=p.outpath_grids,
            extra_generation_params=dict(p.extra_generation_params),
            do_not_save_samples=True,
            do_not_save_grid=True,
            **given,
        )
        runner, named = copy(p.scripts), getattr(shared.opts, OPTION).split(",")
        runner.alwayson_scripts = [each for each in runner.alwayson_scripts if Path(each.filename).stem in named]
        detail.scripts, detail.script_args = runner, [copy(value) for value in p.script_args]
        detail._ad_disabled = detail._ad_inner = True
        return detail


def add_option() -> None:
    section = ("amdm_detailer", "AMDM detailer")
    info = shared.OptionInfo("dynamic_prompts,lora_block_weight", "Scripts of details", section=section)
    shared.opts.add_option(OPTION, info)


script_callbacks.on_ui_settings(add_option)
