"""The benchmark's rows with adapters: `shapes` with boxes for where things stand, or a picture for how they look.

Boxes and reference pictures are drawings that go with the scene and the picture's seed. The text of the layout rows
is empty, so that boxes alone say what is where; the text of the image rows is the checkpoint's own dialect. So "shape"
is the share of objects in their boxes' cells, and "colour" and "background" are agreement with the reference picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch

from lib_amdm.adapters.base import Prepared
from lib_amdm.adapters.clip_vision import ClipVision, read_clip_vision
from lib_amdm.adapters.gligen import Gligen
from lib_amdm.adapters.inputs import Features, GivenInputs
from lib_amdm.adapters.ip_adapter import IPAdapter
from lib_amdm.adapters.kinds import read_adapter
from lib_amdm.comodels.adapter_use import AtWork
from lib_amdm.comodels.mixing import SlotRun, co_run, mixed
from lib_amdm.settings import MAIN_CHECKPOINT, Settings

from ..bundled import ADAPTERS, IMAGE_ADAPTER, IMAGE_ENCODER, LAYOUT_ADAPTER
from ..studio.host import Denoiser
from ..training.networks import LATENT
from ..world.captions import phrases
from ..world.conditions import boxes_of, layout_of, references
from ..world.scenes import Scene
from .methods import MAIN, Method, Sampled, Studio, captions, mixing

CO_MODEL = mixing(MAIN_CHECKPOINT, steps=14, evaluations=0, eta=0.1, gamma=0.6, co_eta=0.1)
"""The best that was found for a co-model that is the main model with an adapter, evaluated in all K steps."""


Preparation = Callable[[Studio, Sequence[Scene], Sequence[int]], Prepared]


@cache
def _layout_adapter() -> Gligen:
    return Gligen(read_adapter(LAYOUT_ADAPTER)).float()


@cache
def _image_adapter() -> IPAdapter:
    return IPAdapter(read_adapter(IMAGE_ADAPTER)).float()


@cache
def _encoder() -> ClipVision:
    return read_clip_vision(IMAGE_ENCODER).float()


@torch.no_grad()
def prepare_layout(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], strength: float = 1.0) -> Prepared:
    """Prepare the layout adapter with what stands in which box."""
    model = studio.model(MAIN)
    texts = list(dict.fromkeys(phrase for scene in scenes for phrase in phrases(scene)))
    layouts = [layout_of(scene, boxes) for scene, boxes in zip(scenes, boxes_of(scenes, seeds))]
    return _layout_adapter().prepare(GivenInputs(layouts, model.pooled(texts), strength=strength))


@torch.no_grad()
def prepare_image(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], strength: float = 1.0) -> Prepared:
    """Prepare the image adapter with each scene's reference picture."""
    adapter = _image_adapter()
    features = _encoder().features(references(scenes, seeds) / 2 + 0.5, adapter.needs_encoder)
    return adapter.prepare(GivenInputs(features=Features(features), strength=strength))


def no_prompts(scenes: Sequence[Scene]) -> list[str]:
    return [""] * len(scenes)


shape_prompts = partial(captions, MAIN)


def adapted(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    texts: Callable[[Sequence[Scene]], Sequence[str]],
    main: Preparation | None = None,
    co_model: Preparation | None = None,
    settings: Settings | None = None,
) -> Sampled:
    """Draw with an adapter on `shapes`, or with AMDM and a co-model that is the main one with an adapter."""
    model = studio.model(MAIN)

    def denoiser(prepare: Preparation | None) -> Denoiser:
        return studio.prompted(model, texts(scenes), AtWork(prepare(studio, scenes, seeds)) if prepare else None)

    first = denoiser(main)
    if settings is None:
        return Sampled(studio.sample(studio.func, first, seeds), first.evaluations)
    other = denoiser(co_model)
    [(number, slot)] = settings.active
    func = mixed(studio.func, settings, [co_run(number, slot, SlotRun(other), seeds, LATENT[1:])])
    return Sampled(studio.sample(func, first, seeds), first.evaluations, other.evaluations)


def co_row(label: str, settings: Settings, **rows: Any) -> Method:
    [(_, slot)] = settings.active
    detail = f"K {settings.steps}; eta {settings.eta:g}; co-model gamma {slot.gamma:g} eta {slot.eta:g} {slot.noise}"
    return adapter_row(label, detail, settings=settings, **rows)


def adapter_row(label: str, detail: str, **rows: Any) -> Method:
    return Method(label, detail, partial(adapted, **rows), ADAPTERS)


ADAPTER_METHODS: dict[str, Method] = {
    "untold": adapter_row("`shapes` alone", "told nothing", texts=no_prompts),
    "layout-main": adapter_row(
        "layout adapter on `shapes`", "in all steps; boxes", texts=no_prompts, main=prepare_layout
    ),
    "layout-amdm": co_row("**AMDM, layout adapter**", CO_MODEL, texts=no_prompts, co_model=prepare_layout),
    "image-main": adapter_row(
        "image adapter on `shapes`", "in all steps; reference picture", texts=shape_prompts, main=prepare_image
    ),
    "image-amdm": co_row("**AMDM, image adapter**", CO_MODEL, texts=shape_prompts, co_model=prepare_image),
    "layout-image-amdm": co_row(
        "**AMDM, layout on main, image adapter**",
        CO_MODEL,
        texts=no_prompts,
        main=prepare_layout,
        co_model=prepare_image,
    ),
}
"""The rows of the table by their names on the command line."""
