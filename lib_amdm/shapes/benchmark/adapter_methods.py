"""The benchmark's rows with adapters: `shapes`, told where things stand by boxes, or how they look by a picture.

Boxes and reference pictures are drawings that go with the scene and the picture's seed. The text of the layout rows
is empty, so that boxes alone say what is where; the text of the image rows is the checkpoint's own dialect. So "shape"
is the share of objects in their boxes' cells, and "colour" and "background" are agreement with the reference picture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ...adapters.base import Prepared
from ...adapters.clip_vision import ClipVision, read_clip_vision
from ...adapters.files import read_adapter
from ...adapters.make import AnyAdapter, adapter_of
from ...comodels.adapter_use import AtWork
from ...comodels.mixing import co_run, mixed
from ...hosts.standalone.host import Denoiser
from ...settings import MAIN_CHECKPOINT, Settings
from ..bundled import ADAPTERS, IMAGE_ADAPTER, IMAGE_ENCODER, LAYOUT_ADAPTER
from ..training.networks import LATENT
from ..world.captions import phrases
from ..world.conditions import boxes_of, layout_of, references
from ..world.scenes import Scene
from .methods import MAIN, Drawn, Method, Studio, captions, mixing

CO_MODEL = mixing(MAIN_CHECKPOINT, steps=14, evaluations=0, eta=0.1, gamma=0.6, co_eta=0.1)
"""The best that was found for a co-model that is the main model with an adapter, evaluated in all K steps."""


Told = Callable[[Studio, Sequence[Scene], Sequence[int]], Prepared]


@functools.cache
def _adapter(name: str) -> AnyAdapter:
    return adapter_of(read_adapter(ADAPTERS / name)).float()


@functools.cache
def _encoder() -> ClipVision:
    return read_clip_vision(IMAGE_ENCODER).float()


@torch.no_grad()
def boxes_told(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], strength: float = 1.0) -> Prepared:
    """The layout adapter, told what stands in which box."""
    model = studio.model(MAIN)
    texts = list(dict.fromkeys(phrase for scene in scenes for phrase in phrases(scene)))
    layouts = [layout_of(scene, boxes) for scene, boxes in zip(scenes, boxes_of(scenes, seeds))]
    return _adapter(LAYOUT_ADAPTER.name).told(layouts, model.pooled(texts), strength, until=1.0)


@torch.no_grad()
def picture_told(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int], strength: float = 1.0) -> Prepared:
    """The image adapter, told each scene's reference picture."""
    adapter = _adapter(IMAGE_ADAPTER.name)
    features = _encoder().features(references(scenes, seeds) / 2 + 0.5, adapter.needs_encoder)
    return adapter.told(features, strength=strength)


def nothing(scenes: Sequence[Scene]) -> list[str]:
    return [""] * len(scenes)


in_words = partial(captions, MAIN)


def adapted(
    studio: Studio,
    scenes: Sequence[Scene],
    seeds: Sequence[int],
    texts: Callable[[Sequence[Scene]], Sequence[str]],
    main: Told | None = None,
    co_model: Told | None = None,
    settings: Settings | None = None,
) -> Drawn:
    """`shapes` with an adapter on the main model, or AMDM with a co-model that is the main one with an adapter."""
    model = studio.model(MAIN)

    def denoiser(told: Told | None) -> Denoiser:
        return studio.told(model, texts(scenes), AtWork(told(studio, scenes, seeds)) if told else None)

    first = denoiser(main)
    if settings is None:
        return Drawn(studio.sample(studio.func, first, seeds), first.evaluations)
    other = denoiser(co_model)
    [(number, slot)] = settings.active
    func = mixed(studio.func, settings, [co_run(number, slot, other, seeds, LATENT[1:])])
    return Drawn(studio.sample(func, first, seeds), first.evaluations, other.evaluations)


def co_row(label: str, settings: Settings, **told: Any) -> Method:
    [(_, slot)] = settings.active
    detail = f"K {settings.steps}; eta {settings.eta:g}; co-model gamma {slot.gamma:g} eta {slot.eta:g} {slot.noise}"
    return adapter_row(label, detail, settings=settings, **told)


def adapter_row(label: str, detail: str, **told: Any) -> Method:
    return Method(label, detail, partial(adapted, **told), ADAPTERS)


ADAPTER_METHODS: dict[str, Method] = {
    "untold": adapter_row("`shapes` alone", "told nothing", texts=nothing),
    "layout-main": adapter_row("layout adapter on `shapes`", "in all steps; boxes", texts=nothing, main=boxes_told),
    "layout-amdm": co_row("**AMDM, layout adapter**", CO_MODEL, texts=nothing, co_model=boxes_told),
    "image-main": adapter_row(
        "image adapter on `shapes`", "in all steps; reference picture", texts=in_words, main=picture_told
    ),
    "image-amdm": co_row("**AMDM, image adapter**", CO_MODEL, texts=in_words, co_model=picture_told),
    "layout-image-amdm": co_row(
        "**AMDM, layout on main, image adapter**", CO_MODEL, texts=nothing, main=boxes_told, co_model=picture_told
    ),
}
"""The rows of the table by their names on the command line."""
