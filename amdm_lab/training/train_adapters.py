"""The training of the adapters for the bundled `shapes`. Its own weights stay as they are.

layout: a GLIGEN. The text says nothing; the boxes say what is where.
encoder: the CLIP vision encoder of the image adapter.
image: an IP-Adapter. The text says the shapes and their places; the reference picture has the same colours in the same
places and the same background, but other shapes, so that shapes are not what is learnt from it.

What an adapter adds is a small part of the loss against the noise itself, and drowns in it. So each has a teacher that
gets the same in a text. Every fuser of the layout adapter learns what the text would add at its own place in `shapes`
itself. The image adapter learns what another reference would change: what it changes in the predictions of `all`, where
those of two checkpoints for the same picture differ by more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lib_amdm.adapters.attach import attached, blocks_of
from lib_amdm.adapters.base import Call, Prepared, Rows
from lib_amdm.adapters.clip_vision import ClipVision, read_clip_vision
from lib_amdm.adapters.gligen import Gligen, PreparedGrounding
from lib_amdm.adapters.inputs import Encoder, Features, GivenInputs

from ..bundled import ADAPTERS, IMAGE_ADAPTER, IMAGE_ENCODER, LAYOUT_ADAPTER, WEIGHTS
from ..judges.scenes import blemished
from ..studio.checkpoint_file import CheckpointFile
from ..world import data
from ..world.captions import caption
from ..world.conditions import layout_of, recoloured, reshaped
from ..world.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, Scene, Thing
from . import networks
from .adapter_networks import IMAGE_EMBEDS, new_image, new_image_encoder, new_layout
from .caption_probe import wanted_of
from .loop import note, train

BASE, EVERYTHING = "shapes", "all"
STOCK = 4000
"""Pictures of the stock that the adapters are trained on."""
LAYOUT_STEPS, IMAGE_STEPS, BATCH = 1500, 1000, 16
ENCODER_STEPS, ENCODER_BATCH = 1500, 24
WITHOUT_BOTH = 0.1
"""Share of the pictures without text and layout."""
LEVEL = 5.0
"""Weight of the predictions in the image adapter's loss; their differences have weight 1."""


class Base:
    """The frozen checkpoint, and the first pictures of the stock as latents."""

    def __init__(self, folder: Path) -> None:
        file = _checkpoint(BASE)
        self.unet = file.unet(torch.float32)
        self.text_encoder = file.text_encoder(torch.float32)
        self.tokenizer = networks.tokenizer(folder)
        vae, scale = file.autoencoder(torch.float32)
        self.latents = data.stock_latents(vae, folder / f"latents-{STOCK}.pt", STOCK).float() * scale
        self.scenes = data.stock_scenes(STOCK)
        self.schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

    @torch.no_grad()
    def pooled(self, texts: Sequence[str]) -> dict[str, Tensor]:
        pooled = self.text_encoder(networks.tokenize(self.tokenizer, list(texts))).pooler_output
        return dict(zip(texts, pooled))

    @torch.no_grad()
    def encoded(self, texts: Sequence[str]) -> Tensor:
        return self.text_encoder(networks.tokenize(self.tokenizer, list(texts))).last_hidden_state

    def places(self) -> Tensor:
        """Return the text encoder's output for each place, (CELLS, CONTEXT): for its last word, mean of all shapes."""
        texts = [caption(Scene(_only(cell, shape), "plain"), BASE) for cell in range(len(CELLS)) for shape in SHAPES]
        tokens = networks.tokenize(self.tokenizer, texts)
        last = (tokens == networks.END).int().argmax(1) - 1
        return self.encoded(texts)[torch.arange(len(texts)), last].unflatten(0, (len(CELLS), -1)).mean(1)

    def noised(self, chosen: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Return pictures of the stock with noise, their timesteps, and the noise."""
        clean = self.latents[chosen]
        noise = torch.randn_like(clean)
        # places and colours are settled where there is much noise
        timesteps = (1000 * torch.rand(len(clean)).sqrt()).long()
        return self.schedule.add_noise(clean, noise, timesteps), timesteps, noise

    def predicted(self, x: Tensor, timesteps: Tensor, cond: Tensor, adapter: Prepared, with_adapter: Tensor) -> Tensor:
        """Predict the noise, with an adapter in the rows `with_adapter` (batch,)."""
        rows = rows_of(with_adapter)
        with attached(self.unet, [adapter], lambda: rows):
            return self.unet(x, timesteps, cond).sample

    @torch.no_grad()
    def seen(self, x: Tensor, timesteps: Tensor, cond: Tensor) -> dict[str, Tensor]:
        """Return the input of each transformer block's cross-attention, by the block's name."""
        inputs: dict[str, Tensor] = {}
        handles = []
        try:
            for block in blocks_of(self.unet):
                keep = partial(_keep, inputs, block.name)
                handles.append(block.module.get_submodule("norm2").register_forward_pre_hook(keep))
            self.unet(x, timesteps, cond)
        finally:
            for handle in handles:
                handle.remove()
        return inputs


def _keep(inputs: dict[str, Tensor], name: str, norm2: nn.Module, args: tuple[Tensor]) -> None:
    inputs[name] = args[0]


def _only(cell: int, shape: str) -> tuple[Thing | None, ...]:
    return tuple(Thing(shape, "red") if number == cell else None for number in range(len(CELLS)))


def _checkpoint(name: str) -> CheckpointFile:
    return CheckpointFile(WEIGHTS / f"{name}.safetensors", f"{name}.safetensors")


def rows_of(with_adapter: Tensor) -> Rows:
    """Return rows that are an image each, with the adapter in those of `with_adapter` (batch,)."""
    return Rows(tuple(range(len(with_adapter))), tuple(with_adapter.tolist()))


def train_layout(folder: Path) -> None:
    """Train the layout adapter."""
    base = Base(folder)
    boxes = data.stock_boxes(STOCK)
    pooled = base.pooled([f"a {shape}" for shape in SHAPES])
    torch.manual_seed(21)
    adapter = new_layout(base.unet)

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        chosen = rng.integers(STOCK, size=BATCH)
        with_adapter = torch.from_numpy(rng.random(BATCH) >= WITHOUT_BOTH)
        texts = [caption(base.scenes[i], BASE, rng) if has_text else "" for i, has_text in zip(chosen, with_adapter)]
        layouts = [layout_of(base.scenes[i], boxes[i]) for i in chosen]
        x, timesteps, _ = base.noised(chosen)
        prepared = adapter.prepare(GivenInputs(layouts, pooled))
        return fusers_loss(base, x, timesteps, base.encoded(texts), adapter, prepared, with_adapter)

    averaged, record = train("layout", adapter, loss_of, LAYOUT_STEPS, 2e-3, folder, average=0.995, seed=21)
    save(averaged, LAYOUT_ADAPTER)
    note("layout", record, ADAPTERS)


def fusers_loss(
    base: Base,
    x: Tensor,
    timesteps: Tensor,
    cond: Tensor,
    adapter: Gligen,
    prepared: PreparedGrounding,
    with_adapter: Tensor,
) -> Tensor:
    """Return the mean distance of the fusers from what the texts add to the empty text, as a share of that.

    The texts add it in the cross-attention of the fusers' blocks, with the pictures on the texts' way through the UNet.

    base: the frozen checkpoint.
    x, timesteps, cond: the noised pictures, their timesteps and the encoded texts.
    adapter, prepared: the adapter, and its inputs.
    with_adapter: the rows that it works in, (batch,).
    """
    blocks = blocks_of(base.unet)
    layers, call = adapter.layers(blocks), Call(rows_of(with_adapter), (x.shape[-2], x.shape[-1]))
    seen, empty = base.seen(x, timesteps, cond), base.encoded([""]).expand_as(cond)
    losses = []
    for block in blocks:
        before = seen[block.name]
        with torch.no_grad():
            h, attn2 = block.module.get_submodule("norm2")(before), block.module.get_submodule("attn2")
            wanted = attn2(h, cond) - attn2(h, empty)
        added = prepared.fused(layers[block.name], block, before, call)
        losses.append(F.mse_loss(added, wanted) / wanted.square().mean())
    return torch.stack(losses).mean()


class ImageProbe(nn.Module):
    """The head that trains the encoder: it reads the colour of each cell, and the background, from image_embeds."""

    def __init__(self, encoder: ClipVision) -> None:
        super().__init__()
        self.encoder = encoder
        self.colour = nn.Linear(IMAGE_EMBEDS, len(CELLS) * (len(COLOURS) + 1))
        self.background = nn.Linear(IMAGE_EMBEDS, len(BACKGROUNDS))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Turn pictures (batch, 3, SIZE, SIZE) from 0 to 1 into logits (batch, kinds, cells) and (batch, kinds)."""
        embeds = self.encoder.encode(self.encoder.preprocess(pictures), "image_embeds")
        return self.colour(embeds).unflatten(1, (len(CELLS), -1)).transpose(1, 2), self.background(embeds)

    def readings(self) -> list[tuple[Tensor, Tensor]]:
        """Return for each cell the weight and the bias that read its colour, and the background, from image_embeds."""
        weights, biases = (part.detach().chunk(len(CELLS)) for part in (self.colour.weight, self.colour.bias))
        ground = self.background.weight.detach(), self.background.bias.detach()
        return [(torch.cat([w, ground[0]]), torch.cat([b, ground[1]])) for w, b in zip(weights, biases)]


def train_encoder(folder: Path) -> ImageProbe:
    """Train the image adapter's encoder, and return it with its probe."""
    torch.manual_seed(22)
    probe = ImageProbe(new_image_encoder())

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        scenes, pictures = data.drawings(ENCODER_BATCH, rng)
        colours, grounds = probe(blemished(pictures) / 2 + 0.5)
        wanted = torch.tensor([wanted_of(scene, "full") for scene in scenes])
        return F.cross_entropy(colours, wanted[:, 4:8]) + F.cross_entropy(grounds, wanted[:, 8])

    averaged, record = train("encoder", probe, loss_of, ENCODER_STEPS, 1e-3, folder, average=0.99, seed=22)
    save(averaged.encoder, IMAGE_ENCODER)
    note("encoder", record, ADAPTERS)
    return averaged


def train_image(folder: Path) -> None:
    """Train the image adapter, after its encoder if that is not trained yet."""
    probe = train_encoder(folder)
    base = Base(folder)
    teacher = _checkpoint(EVERYTHING).unet(torch.float32)
    torch.manual_seed(23)
    adapter = new_image(base.unet, base.places(), probe.readings())
    encoder = read_clip_vision(IMAGE_ENCODER).float()
    rng = np.random.default_rng(25)
    scenes = base.scenes, [recoloured(scene, rng) for scene in base.scenes]
    features = [reference_features(of_scenes, encoder, adapter.needs_encoder) for of_scenes in scenes]

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        chosen = rng.integers(STOCK, size=BATCH // 2)
        x, timesteps, noise = base.noised(chosen)
        words = base.encoded([caption(base.scenes[i], BASE, rng) for i in chosen])
        whole = [base.encoded([caption(of_scenes[i]) for i in chosen]) for of_scenes in scenes]
        # each picture with its reference and with the other, and two without any, one of them without a text too
        without_picture = torch.cat([words[:1], base.encoded([""])])
        with_adapter = torch.arange(2 * len(x) + 2) < 2 * len(x)
        seen = torch.cat([*(of_scenes[chosen] for of_scenes in features), features[0][chosen[:2]]])
        batch = torch.cat([x, x, x[:2]]), torch.cat([timesteps, timesteps, timesteps[:2]])
        prepared = adapter.prepare(GivenInputs(features=Features(seen)))
        predicted = base.predicted(*batch, torch.cat([words, words, without_picture]), prepared, with_adapter)
        first, other, without = predicted.split([len(x), len(x), 2])
        with torch.no_grad():
            change = torch.sub(*(teacher(x, timesteps, of_scenes).sample for of_scenes in whole))
            plain = base.unet(x[:2], timesteps[:2], without_picture).sample
        level = F.mse_loss(first, noise) + F.mse_loss(without, plain)
        return F.mse_loss(first - other, change) / change.square().mean() + LEVEL * level

    averaged, record = train("image", adapter, loss_of, IMAGE_STEPS, 4e-3, folder, average=0.995, seed=23)
    save(averaged, IMAGE_ADAPTER)
    note("image", record, ADAPTERS)


@torch.no_grad()
def reference_features(scenes: Sequence[Scene], encoder: ClipVision, wanted: Encoder) -> Tensor:
    """Return the encoder's features of a reference picture of each scene."""
    rng = np.random.default_rng(24)
    features = []
    for begin in range(0, len(scenes), 50):
        pictures = data.pictures_of([reshaped(scene, rng) for scene in scenes[begin : begin + 50]], rng)
        features.append(encoder.features(pictures / 2 + 0.5, wanted))
    return torch.cat(features)


def save(trained: nn.Module, file: Path) -> None:
    save_file({key: value.half().contiguous() for key, value in trained.state_dict().items()}, file)
