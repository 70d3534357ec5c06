"""The parts of the benchmark's rows: a studio, and methods that draw scenes in it.

Most rows are orders to the studio's drawer: one checkpoint alone, or AMDM with settings as a user has them. `rules` has
the methods that no settings describe. All draw from the same first noise.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.core.aggregation import Mix
from lib_amdm.settings import MAIN_CHECKPOINT, AdapterSettings, CoModel, Settings

from ..bundled import DIALECT_OF, IMAGE_ADAPTER, LAYOUT_ADAPTER, MADE_OF
from ..drawers.studio import StandaloneDrawer
from ..drawing import Order
from ..studio.host import GuidedDenoiser, Standalone, StandaloneModel, Variant
from ..studio.sampling import ImageNoise, find_sampler, noise_levels, sample
from ..world.captions import caption
from ..world.conditions import boxes_of, layout_of, references
from ..world.scenes import LATENT, SIZE, Scene
from .projected import Projected

MAIN = "shapes"
NOTHING = "BREAK"
"""The prompt of a model that gets no text: it ends an empty part, while a blank prompt would be the main model's."""
ALONE = Settings()
"""The settings of a checkpoint without AMDM."""
AnyAdapter = TypeVar("AnyAdapter", AdapterSettings, CoModel)


@dataclass(frozen=True)
class Sampled:
    """The result of a method before decoding."""

    latents: Tensor
    """(pictures, channels, height, width)."""
    evaluations: int
    """Guided predictions of a picture by the main model, or by the only one."""
    co_evaluations: int = 0
    """Guided predictions of a picture by all other models."""
    checkpoint: str = MAIN
    """The one whose autoencoder decodes them: the main model's, or one with the same latents."""


@dataclass(frozen=True)
class Studio:
    """The host, and how all methods sample on it."""

    host: Standalone
    steps: int = 20
    cfg_scale: float = 5.0
    sampler: str = "euler"
    scale: int = 1
    """A picture's side in that of the bundled checkpoints'."""
    projected: tuple[str, ...] = ()
    """The checkpoints with projected guidance."""

    def latent(self, model: StandaloneModel) -> tuple[int, int, int]:
        """Return the shape of a picture's latent."""
        _, height, width = LATENT
        return model.latent_channels, height * self.scale, width * self.scale

    def model(self, name: str) -> StandaloneModel:
        return self.host.model(name)

    def order(self, checkpoint: str, prompt: str, seed: int, settings: Settings) -> Order:
        side = SIZE * self.scale
        return Order(
            checkpoint,
            prompt,
            seed,
            settings=settings.to_dict(),
            sampler=self.sampler,
            steps=self.steps,
            cfg_scale=self.cfg_scale,
            width=side,
            height=side,
        )

    def draw(self, orders: Sequence[Order], mix: Mix | str, correction: str) -> Sampled:
        """Draw a batch of orders."""
        drawn = StandaloneDrawer(self.host).latents(orders, Variant(mix, correction, self._changed))
        return Sampled(drawn.latents, drawn.evaluations, sum(drawn.co_evaluations), orders[0].checkpoint)

    def _changed(self, denoiser: GuidedDenoiser) -> GuidedDenoiser | Projected:
        """Return the denoiser that a model is sampled with."""
        if Path(denoiser.model.title).stem not in self.projected:
            return denoiser
        return Projected(denoiser, unguided(denoiser.model, sum(len(group.images) for group in denoiser.groups)))

    def denoiser(self, name: str, scenes: Sequence[Scene]) -> GuidedDenoiser | Projected:
        """Return the checkpoint as a denoiser of the scenes, in the dialect that it was taught."""
        return self._changed(self.prompted(self.model(name), captions(name, scenes)))

    def prompted(self, model: StandaloneModel, prompts: Sequence[str]) -> GuidedDenoiser:
        return model.denoiser(prompts, [""] * len(prompts), self.cfg_scale)

    def sigmas(self, name: str = MAIN) -> Tensor:
        return noise_levels(self.model(name), self.sampler, "automatic", self.steps)

    @property
    def func(self) -> Callable[..., Any]:
        """The plain sampler."""
        return find_sampler(self.sampler)

    def sample(self, func: Callable[..., Any], denoiser: nn.Module, seeds: Sequence[int]) -> Tensor:
        """Draw with `func` from the noise levels of the denoiser's model."""
        model = cast(StandaloneModel, denoiser.model)
        sigmas = noise_levels(model, self.sampler, "automatic", self.steps)
        return sample(func, denoiser, ImageNoise(seeds, self.latent(model)), sigmas)

    def pictures(self, drawn: Sampled) -> Tensor:
        """Decode what was drawn in the small size, (pictures, 3, SIZE, SIZE) from -1 to 1."""
        decoded = self.host.autoencoder(drawn.checkpoint).decode(drawn.latents)
        return F.avg_pool2d(decoded * 2 - 1, self.scale)


Draw = Callable[[Studio, Sequence[Scene], Sequence[int]], Sampled]


@dataclass(frozen=True)
class Method:
    """A row of the table. more: a folder of weights that it needs in addition to the checkpoints."""

    label: str
    detail: str
    draw: Draw
    more: Path | None = None


def words(name: str, scene: Scene) -> str:
    """Describe the scene in the dialect that a checkpoint was taught."""
    return caption(scene, DIALECT_OF[MADE_OF.get(name, name)])


def captions(name: str, scenes: Sequence[Scene]) -> list[str]:
    """Describe the scenes in the dialect that a checkpoint was taught."""
    return [words(name, scene) for scene in scenes]


def unguided(model: StandaloneModel, pictures: int) -> GuidedDenoiser:
    """Return the model's prediction without a prompt, as a denoiser."""
    return model.denoiser([""] * pictures, [""] * pictures, 1.0)


@dataclass(frozen=True)
class Ordered:
    """Draws by orders: the main checkpoint with AMDM's settings, into which each scene's inputs are filled."""

    main: str = MAIN
    settings: Settings = ALONE
    mix: Mix | str = "slerp"
    words: Callable[[str, Scene], str] = words
    """Returns a checkpoint's prompt for a scene."""

    def __call__(self, studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int]) -> Sampled:
        orders = [self.order(studio, scene, seed) for scene, seed in zip(scenes, seeds)]
        # the API does not have all corrections
        return studio.draw(orders, self.mix, self.settings.correction)

    def order(self, studio: Studio, scene: Scene, seed: int) -> Order:
        """Return the order of one picture."""
        settings = replace(
            self.settings,
            correction="relative",
            main_adapter=_with_input(self.settings.main_adapter, scene, seed),
            co_models=tuple(
                _with_input(replace(slot, prompt=self._prompt(slot, scene)), scene, seed)
                for slot in self.settings.co_models
            ),
        )
        return studio.order(self.main, self.words(self.main, scene), seed, settings)

    def _prompt(self, slot: CoModel, scene: Scene) -> str:
        return "" if slot.checkpoint == MAIN_CHECKPOINT else self.words(slot.checkpoint, scene) or NOTHING


def _with_input(settings: AnyAdapter, scene: Scene, seed: int) -> AnyAdapter:
    """Fill in what a bundled adapter takes: the boxes of the scene's drawing, or a reference picture."""
    if settings.adapter == LAYOUT_ADAPTER.name:
        [boxes] = boxes_of([scene], [seed])
        return replace(settings, layout=json.dumps(layout_of(scene, boxes).rows()))
    if settings.adapter == IMAGE_ADAPTER.name:
        return replace(settings, image=reference_file(scene, seed))
    return settings


def reference_file(scene: Scene, seed: int) -> str:
    """Return the scene's reference picture as a setting has it: a PNG in base64."""
    pixels = ((references([scene], [seed])[0] / 2 + 0.5) * 255).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def on(draw: Draw, **fields: Any) -> Draw:
    """Draw in a studio with other values of these fields."""

    def drawn(studio: Studio, scenes: Sequence[Scene], seeds: Sequence[int]) -> Sampled:
        return draw(replace(studio, **fields), scenes, seeds)

    return drawn


def mixing(*co_models: str, gamma: float, co_eta: float, noise: str = "shared", **further: Any) -> Settings:
    """Make settings that mix in these checkpoints with one gamma, eta and noise; `further`: fields of Settings."""
    slots = tuple(CoModel(checkpoint=name, gamma=gamma, eta=co_eta, noise=noise) for name in co_models)
    return Settings(enabled=True, co_models=slots, **further)


def pulled(settings: Settings, correction: str, eta: float = 0.2) -> Settings:
    """Return the settings with a pull of every model."""
    slots = tuple(replace(slot, eta=eta) for slot in settings.co_models)
    return replace(settings, eta=eta, correction=correction, co_models=slots)


def amdm_row(label: str, settings: Settings, main: str = MAIN, mix: Mix | str = "slerp") -> Method:
    slots = ", ".join(f"{s.checkpoint} gamma {s.gamma:g} eta {s.eta:g} {s.noise}" for _, s in settings.active)
    steps, evaluations = (str(value or "all") for value in (settings.steps, settings.evaluations))
    detail = f"K {steps}, E {evaluations}; {main} eta {settings.eta:g}; {slots}"
    if settings.eta:
        detail += f"; {settings.correction}"
    return Method(label, detail, Ordered(main, settings, mix))


def alone_row(name: str) -> Method:
    return Method(f"`{name}` alone", "given its own dialect", Ordered(name))
