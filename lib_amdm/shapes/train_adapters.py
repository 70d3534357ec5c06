"""The training of the adapters for the bundled `shapes`, whose own weights stay as they are.

layout: a GLIGEN. The text says some of the things, or nothing; the boxes say all.
encoder: the CLIP vision encoder of the image adapter.
image: an IP-Adapter. The text says the shapes and their places; the reference picture has the same colours in the same
places and the same background, but other shapes, so that shapes are not what is learnt from it.

What an adapter adds is a small part of the loss against the noise itself, and drowns in it. So most of the target is
the prediction of a checkpoint that is told the same in words: the layout's teacher is `shapes`, the image's is `all`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ..adapters.attach import attached
from ..adapters.base import Prepared, Rows
from ..adapters.clip_vision import ClipVision, read_clip_vision
from ..hosts.standalone_files import CheckpointFile
from . import data, networks
from .adapter_networks import IMAGE_EMBEDS, new_image, new_image_encoder, new_layout
from .bundled import ADAPTERS, IMAGE_ADAPTER, IMAGE_ENCODER, LAYOUT_ADAPTER, WEIGHTS
from .captions import caption
from .judge import blemished
from .reader import wanted_of
from .told import layout_of, reshaped, some_of
from .training import note, train
from .world import BACKGROUNDS, CELLS, COLOURS, SHAPES

BASE, EVERYTHING = "shapes", "all"
STOCK = 4000
"""Pictures of the stock that the adapters are trained on."""
LAYOUT_STEPS, IMAGE_STEPS, BATCH = 2000, 1500, 16
ENCODER_STEPS, ENCODER_BATCH = 1500, 24
WITHOUT_ADAPTER, WITHOUT_BOTH = 0.05, 0.1
"""Shares of the pictures that are learned without what the adapter is told, and without their text as well."""
BOXES_ALONE = 0.4
"""Share of the pictures that the layout adapter learns without a text."""
TAUGHT = 0.8
"""Share of the teacher's prediction in the target; the rest is the noise itself."""


class Base:
    """The frozen checkpoint, its teacher, and the first pictures of the stock as latents."""

    def __init__(self, folder: Path, teacher: str) -> None:
        file = _checkpoint(BASE)
        self.unet = file.unet(torch.float32)
        self.teacher = self.unet if teacher == BASE else _checkpoint(teacher).unet(torch.float32)
        self.text_encoder = file.text_encoder(torch.float32)
        self.tokenizer = networks.tokenizer(folder)
        vae, scale = file.autoencoder(torch.float32)
        self.latents = data.stock_latents(vae, folder / f"latents-{STOCK}.pt", STOCK).float() * scale
        self.scenes = data.stock_scenes()[:STOCK]
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    @torch.no_grad()
    def pooled(self, texts: Sequence[str]) -> dict[str, Tensor]:
        found = self.text_encoder(networks.tokenize(self.tokenizer, list(texts))).pooler_output
        return dict(zip(texts, found))

    def loss(
        self, chosen: np.ndarray, texts: Sequence[str], adapter: Prepared, told: Sequence[bool], whole: Sequence[str]
    ) -> Tensor:
        """Of the noise predictions for these pictures of the stock.

        told: which rows the adapter is told of. whole: what it is told and what `texts` say, in the teacher's words.
        """
        clean = self.latents[chosen]
        noise = torch.randn_like(clean)
        # places and colours are settled where there is much noise
        timesteps = (1000 * torch.rand(len(clean)).sqrt()).long()
        noised = self.schedule.add_noise(clean, noise, timesteps)
        with torch.no_grad():
            cond, cond_whole = self._encoded(texts), self._encoded(whole)
            taught = torch.empty_like(noise)
            for unet, rows, said in (
                (self.teacher, torch.tensor(told), cond_whole),
                (self.unet, ~torch.tensor(told), cond),
            ):
                if rows.any():
                    taught[rows] = unet(noised[rows], timesteps[rows], said[rows]).sample
        return F.mse_loss(self.predicted(noised, timesteps, cond, adapter, told), noise.lerp(taught, TAUGHT))

    def _encoded(self, texts: Sequence[str]) -> Tensor:
        return self.text_encoder(networks.tokenize(self.tokenizer, list(texts))).last_hidden_state

    def predicted(self, x: Tensor, timesteps: Tensor, cond: Tensor, adapter: Prepared, told: Sequence[bool]) -> Tensor:
        rows = Rows(tuple(range(len(x))), tuple(told))
        with attached(self.unet, [adapter], lambda: rows):
            return self.unet(x, timesteps, cond).sample


def _checkpoint(name: str) -> CheckpointFile:
    return CheckpointFile(WEIGHTS / f"{name}.safetensors", f"{name}.safetensors")


def train_layout(folder: Path) -> None:
    base = Base(folder, BASE)
    boxes = data.stock_boxes(STOCK)
    pooled = base.pooled([f"a {shape}" for shape in SHAPES])
    torch.manual_seed(21)
    adapter = new_layout(base.unet)

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        chosen = rng.integers(STOCK, size=BATCH)
        with_text, told = dropped(rng)
        scenes = [base.scenes[i] for i in chosen]
        some = [caption(some_of(scene, rng), BASE, rng) if rng.random() >= BOXES_ALONE else "" for scene in scenes]
        texts = [text if tell else "" for text, tell in zip(some, with_text)]
        layouts = [layout_of(scene, boxes[i]) for scene, i in zip(scenes, chosen)]
        return base.loss(chosen, texts, adapter.told(layouts, pooled), told, [caption(scene, BASE) for scene in scenes])

    averaged, told = train("layout", adapter, loss_of, LAYOUT_STEPS, 2e-3, folder, average=0.998, seed=21)
    save(averaged, LAYOUT_ADAPTER)
    note("layout", told, ADAPTERS)


def dropped(rng: np.random.Generator) -> tuple[list[bool], list[bool]]:
    """For each picture of a batch: whether its text is told, and whether the adapter is told of it."""
    chance = rng.random(BATCH)
    return (chance >= WITHOUT_BOTH).tolist(), (chance >= WITHOUT_BOTH + WITHOUT_ADAPTER).tolist()


class ImageReader(nn.Module):
    """What the encoder is trained by: its image_embeds alone must say the colour of each cell, and the background."""

    def __init__(self, encoder: ClipVision) -> None:
        super().__init__()
        self.encoder = encoder
        self.colour = nn.Linear(IMAGE_EMBEDS, len(CELLS) * (len(COLOURS) + 1))
        self.background = nn.Linear(IMAGE_EMBEDS, len(BACKGROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 3, SIZE, SIZE) from 0 to 1 to logits (batch, kinds, cells) and (batch, kinds)."""
        embeds = self.encoder.encode(self.encoder.preprocess(pictures), "image_embeds")
        return self.colour(embeds).unflatten(1, (len(CELLS), -1)).transpose(1, 2), self.background(embeds)


def train_encoder(folder: Path) -> None:
    torch.manual_seed(22)
    reader = ImageReader(new_image_encoder())

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        scenes, pictures = data.drawings(ENCODER_BATCH, rng)
        colours, grounds = reader(blemished(pictures) / 2 + 0.5)
        wanted = torch.tensor([wanted_of(scene, "full") for scene in scenes])
        return F.cross_entropy(colours, wanted[:, 4:8]) + F.cross_entropy(grounds, wanted[:, 8])

    averaged, told = train("encoder", reader, loss_of, ENCODER_STEPS, 1e-3, folder, average=0.99, seed=22)
    save(averaged.encoder, IMAGE_ENCODER)
    note("encoder", told, ADAPTERS)


def train_image(folder: Path) -> None:
    base = Base(folder, EVERYTHING)
    encoder = read_clip_vision(IMAGE_ENCODER).float()
    torch.manual_seed(23)
    adapter = new_image(base.unet)

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        chosen = rng.integers(STOCK, size=BATCH)
        with_text, told = dropped(rng)
        scenes = [base.scenes[i] for i in chosen]
        texts = [caption(scene, BASE, rng) if tell else "" for scene, tell in zip(scenes, with_text)]
        pictures = data.pictures_of([reshaped(scene, rng) for scene in scenes], rng)
        with torch.no_grad():
            features = encoder.features(pictures / 2 + 0.5, adapter.needs_encoder)
        return base.loss(chosen, texts, adapter.told(features), told, [caption(scene) for scene in scenes])

    averaged, told = train("image", adapter, loss_of, IMAGE_STEPS, 2e-3, folder, average=0.998, seed=23)
    save(averaged, IMAGE_ADAPTER)
    note("image", told, ADAPTERS)


def save(trained: nn.Module, file: Path) -> None:
    save_file({key: value.half().contiguous() for key, value in trained.state_dict().items()}, file)
