"""Train one part of the drawn world: `python -m amdm_lab train vae` (then text, judge, each checkpoint).

Train vae and text first, then shapes, colours, backgrounds and all, which write the checkpoints; judge at any time.
Without the first two, a checkpoint gets the VAE and text encoder of the bundled ones. shapes-flow and colours-flow make
flow models of the bundled ones. vae16, colours16 and colours16-flow, in this order, make models with another latent
space. all-pierced makes a model of another style, which style-judge recognises. The adapters layout and image are for
the bundled shapes. Each command goes on where it was stopped, and writes a loss plot.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..arguments import add_threads
from ..bundled import ADAPTERS, CLIP_FOLDER, DIALECT_OF, FLOW_OF, STYLED_OF, WEIGHTS, WIDE_OF
from ..studio.checkpoint_file import CheckpointFile
from ..world import data
from ..world.captions import DIALECTS, caption
from . import networks
from .caption_probe import CaptionProbe, wanted_of
from .ldm_format import write_checkpoint
from .loop import note, train
from .train_adapters import train_encoder, train_image, train_layout
from .train_judges import train_judge, train_style_judge
from .widening import wide_unet, wide_vae

FOLDER = Path("shapes-training")
VAE_STEPS, VAE_BATCH = 2600, 8
TEXT_STEPS, TEXT_BATCH = 1000, 128
UNET_STEPS = {"shapes": 5000, "colours": 5000, "backgrounds": 5000, "full": 4000}
UNET_BATCH = 32
LARGER_STEPS, LARGER_BATCH, LARGER_STOCK, LARGER_SCALE = 600, 16, 6000, 2
LARGER = ("shapes", "colours")
"""The checkpoints that are also made for pictures of 256x256."""
FLOW_STEPS = 600
WIDE_CHANNELS = 16
"""Of the latents of the second autoencoder."""
WIDE_VAE, WIDE = "vae16", "colours16"
WIDE_VAE_STEPS, WIDE_FLOW_STEPS = 80, 200
WIDE_STEPS = (850, 400)
"""For the noise, and then for v."""
WIDE_STOCK, WIDE_LATENTS = 1500, "latents16.pt"
"""Few steps are enough: both networks begin with trained ones."""
STYLED_STEPS, STYLED_STOCK = 500, 4000
WITHOUT_TEXT = 0.1
"""Share of the pictures without their caption, for guidance."""
TIMESTEPS = 1000
SCHEDULE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
FLOW_PARAMS = {"parameterization": "flow", "shift": 1.0}
"""The yaml's entries for a flow model."""


def train_vae(folder: Path) -> None:
    """Train the autoencoder: flat colours and edges need the L1 part, an even latent the small KL part."""
    torch.manual_seed(1)
    # at first an even latent, then details: with the larger weight to the end, a channel stays empty
    _train_vae(folder, "vae", networks.new_vae(), VAE_STEPS, 1.5e-3, lambda part: 1e-5 if part < 0.25 else 1e-6)


def train_wide_vae(folder: Path) -> None:
    """Train an autoencoder with another latent space, begun with the bundled one.

    It has no KL part, which in so few steps would empty the new channels.
    """
    torch.manual_seed(3)
    vae = wide_vae(_bundled("shapes").autoencoder(torch.float32)[0], WIDE_CHANNELS)
    _train_vae(folder, WIDE_VAE, vae, WIDE_VAE_STEPS, 5e-4, lambda part: 0.0)


def _train_vae(
    folder: Path, name: str, vae: networks.AutoencoderKL, steps: int, lr: float, even: Callable[[float], float]
) -> None:
    """Train an autoencoder. even: returns the weight of the KL part, by the share of the steps that is done."""

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        pictures = data.drawings(VAE_BATCH, rng)[1]
        # half precision is twice as fast, and exact enough until the last details
        with torch.autocast("cpu", torch.bfloat16, enabled=part < 0.75):
            coded = vae.encode(pictures).latent_dist
            back = vae.decode(coded.sample()).sample
        back = back.float()
        return F.mse_loss(back, pictures) + 0.3 * F.l1_loss(back, pictures) + even(part) * coded.kl().float().mean()

    averaged, record = train(name, vae, loss_of, steps, lr, folder, average=0.0)
    torch.save(averaged.state_dict(), folder / f"{name}.pt")
    note(name, record, WEIGHTS)


def train_text(folder: Path) -> None:
    """Train the text encoder by what a small probe reads from its output: the caption of each cell."""
    torch.manual_seed(2)
    tokenizer = networks.tokenizer(folder)
    probe = CaptionProbe(networks.new_text_encoder())

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        scenes = data.drawn_scenes(TEXT_BATCH, rng)
        dialects = [DIALECTS[rng.integers(len(DIALECTS))] for _ in scenes]
        texts = [caption(scene, dialect, rng) for scene, dialect in zip(scenes, dialects)]
        answers = probe(networks.tokenize(tokenizer, texts))
        wanted = torch.tensor([wanted_of(scene, dialect) for scene, dialect in zip(scenes, dialects)])
        return torch.stack([F.cross_entropy(answer, wanted[:, i]) for i, answer in enumerate(answers)]).mean()

    averaged, record = train("text", probe, loss_of, TEXT_STEPS, 3e-3, folder, average=0.0)
    _forget_unread(averaged.text_encoder, tokenizer)
    torch.save(averaged.text_encoder.state_dict(), folder / "text.pt")
    note("text", record, WEIGHTS)


def _forget_unread(text_encoder: networks.CLIPTextModel, tokenizer: networks.CLIPTokenizer) -> None:
    """Clear the embeddings of tokens that no caption has: noise there would be read as if it meant something."""
    rng = np.random.default_rng(0)
    texts = [caption(scene, dialect, rng) for scene in data.drawn_scenes(2000, rng) for dialect in DIALECTS]
    read = networks.tokenize(tokenizer, texts).unique()
    table = text_encoder.get_input_embeddings().get_parameter("weight").data
    needed = table[read].clone()
    table.zero_()
    table[read] = needed


Loss = Callable[[np.random.Generator, float], Tensor]


def train_unet(folder: Path, name: str, dialect: str) -> None:
    """Train a UNet on captions in one dialect, and write its checkpoint; all share one VAE and one text encoder."""
    tokenizer = networks.tokenizer(folder)
    vae, text_encoder, scale = _shared(folder)
    latents = data.stock_latents(vae, folder / "latents.pt").float()
    scale = scale or round(1 / latents.std().item(), 5)
    seed = 10 + DIALECTS.index(dialect)
    torch.manual_seed(seed)
    unet = networks.new_unet()
    loss_of = _loss(unet, latents * scale, text_encoder, tokenizer, dialect, UNET_BATCH)
    averaged, record = train(name, unet, loss_of, UNET_STEPS[dialect], 1e-3, folder, average=0.998, seed=seed)
    _write(WEIGHTS, name, averaged, vae, text_encoder, scale)
    note(name, record, WEIGHTS)


def train_larger(folder: Path, name: str, dialect: str) -> None:
    """Train a bundled UNet on pictures of twice the width and height; the checkpoint stays in `folder`."""
    unet, vae, text_encoder, scale = _networks(name)
    latents = data.stock_latents(vae, folder / "latents-larger.pt", LARGER_STOCK, LARGER_SCALE).float() * scale
    loss_of = _loss(unet, latents, text_encoder, networks.tokenizer(folder), dialect, LARGER_BATCH)
    seed = 20 + DIALECTS.index(dialect)
    averaged, record = train(f"{name}-larger", unet, loss_of, LARGER_STEPS, 4e-4, folder, average=0.995, seed=seed)
    _write(folder / "larger", name, averaged, vae, text_encoder, scale)
    note(f"{name}-larger", record, folder / "larger")


def train_wide(folder: Path) -> None:
    """Train a UNet on the latents of the second autoencoder, begun with a bundled one, and write its checkpoint.

    It first learns the new channels' noise, as the bundled one predicts it, and then v: of so many channels a thin
    network's error in the noise is too large at high levels, where it counts many times.
    """
    tokenizer = networks.tokenizer(folder)
    bundled, dialect = _bundled(WIDE_OF[WIDE]), DIALECT_OF[WIDE_OF[WIDE]]
    vae, text_encoder = _wide_vae(folder), bundled.text_encoder(torch.float32)
    latents = data.stock_latents(vae, folder / WIDE_LATENTS, WIDE_STOCK).float()
    scale, offset = round(1 / latents.std().item(), 5), round(latents.mean().item(), 5)
    unet = wide_unet(bundled.unet(torch.float32), WIDE_CHANNELS).train().requires_grad_(True)
    minutes = 0.0
    for part, (steps, with_noise) in enumerate(zip(WIDE_STEPS, (noised, with_velocity))):
        loss_of = _loss(unet, (latents - offset) * scale, text_encoder, tokenizer, dialect, UNET_BATCH, with_noise)
        name = f"{WIDE}-{part + 1}"
        unet, record = train(name, unet, loss_of, steps, 1e-3, folder, average=0.99, seed=50 + part)
        minutes += record["minutes"]
    _write(WEIGHTS, WIDE, unet, vae, text_encoder, scale, {"parameterization": "v", "shift_factor": offset})
    note(WIDE, {**record, "steps": sum(WIDE_STEPS), "minutes": round(minutes, 1)}, WEIGHTS)


def _wide_vae(folder: Path) -> networks.AutoencoderKL:
    """Load the second autoencoder: the one trained in this folder, or else the bundled one."""
    file = folder / f"{WIDE_VAE}.pt"
    if not file.exists():
        return _bundled(WIDE).autoencoder(torch.float32)[0]
    vae = networks.new_vae(WIDE_CHANNELS)
    vae.load_state_dict(torch.load(file, weights_only=True))
    return vae.eval()


def train_wide_flow(folder: Path) -> None:
    """Train the UNet of the second latent space further as a flow model; the checkpoint stays in `folder`."""
    dialect = DIALECT_OF[WIDE_OF[WIDE]]
    train_flow(folder, f"{WIDE}-flow", WIDE, dialect, WIDE_LATENTS, WIDE_STOCK, WIDE_FLOW_STEPS)


def train_flow(
    folder: Path,
    part: str,
    name: str,
    dialect: str,
    latents_file: str = "latents.pt",
    count: int = data.STOCK,
    steps: int | None = None,
) -> None:
    """Train a bundled UNet to predict the velocity of a rectified flow; the checkpoint stays in `folder`.

    latents_file: the file of the stock's latents.
    count: how many pictures they are of.
    steps: FLOW_STEPS if None.
    """
    unet, vae, text_encoder, scale = _networks(name)
    offset = _bundled(name).offset
    latents = (data.stock_latents(vae, folder / latents_file, count).float() - offset) * scale
    loss_of = _loss(unet, latents, text_encoder, networks.tokenizer(folder), dialect, UNET_BATCH, flowing)
    seed = 30 + DIALECTS.index(dialect)
    averaged, record = train(part, unet, loss_of, steps or FLOW_STEPS, 1e-3, folder, average=0.99, seed=seed)
    _write(
        folder / "flow",
        part,
        averaged,
        vae,
        text_encoder,
        scale,
        {**FLOW_PARAMS, **({"shift_factor": offset} if offset else {})},
    )
    note(part, record, folder / "flow")


def train_styled(folder: Path, part: str, name: str, style: str, dialect: str) -> None:
    """Train a bundled UNet to draw in another style; the checkpoint stays in `folder`."""
    unet, vae, text_encoder, scale = _networks(name)
    latents = data.stock_latents(vae, folder / f"latents-{style}.pt", STYLED_STOCK, style=style).float() * scale
    loss_of = _loss(unet, latents, text_encoder, networks.tokenizer(folder), dialect, UNET_BATCH)
    averaged, record = train(part, unet, loss_of, STYLED_STEPS, 1e-3, folder, average=0.99, seed=40)
    _write(folder / "styled", part, averaged, vae, text_encoder, scale)
    note(part, record, folder / "styled")


def _networks(name: str) -> tuple[networks.UNet2DConditionModel, networks.AutoencoderKL, networks.CLIPTextModel, float]:
    """Load the networks of a bundled checkpoint, its UNet for training, and the scale of its latents."""
    bundled = _bundled(name)
    unet = bundled.unet(torch.float32).train().requires_grad_(True)
    vae, scale = bundled.autoencoder(torch.float32)
    return unet, vae, bundled.text_encoder(torch.float32), scale


def _bundled(name: str) -> CheckpointFile:
    return CheckpointFile(WEIGHTS / f"{name}.safetensors", f"{name}.safetensors")


Noised = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Makes of clean latents: noised ones, their timesteps, and what a UNet must predict."""


def noised(clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise at Stable Diffusion's levels; the noise is wanted."""
    noise = torch.randn_like(clean)
    timesteps = torch.randint(0, TIMESTEPS, (len(clean),))
    return SCHEDULE.add_noise(clean, noise, timesteps), timesteps, noise


def with_velocity(clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add noise at Stable Diffusion's levels; v is wanted."""
    x, timesteps, noise = noised(clean)
    return x, timesteps, SCHEDULE.get_velocity(clean, noise, timesteps)


def flowing(clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Go a part of the way to the noise; the velocity is wanted.

    All parts alike: what is where is settled near the noise, which a logit-normal t hardly shows.
    """
    noise = torch.randn_like(clean)
    t = torch.rand(len(clean))
    part = t.view(-1, 1, 1, 1)
    return torch.lerp(clean, noise, part), TIMESTEPS * t, noise - clean


def _loss(
    unet: torch.nn.Module,
    latents: Tensor,
    text_encoder: networks.CLIPTextModel,
    tokenizer: networks.CLIPTokenizer,
    dialect: str,
    batch: int,
    with_noise: Noised = noised,
) -> Loss:
    """Make the loss of a UNet: the error of what it predicts in random latents with their captions."""
    scenes = data.stock_scenes(len(latents))

    def loss_of(rng: np.random.Generator, part: float) -> Tensor:
        chosen = rng.integers(len(latents), size=batch)
        with_text = rng.random(batch) >= WITHOUT_TEXT
        texts = [caption(scenes[i], dialect, rng) if has_text else "" for i, has_text in zip(chosen, with_text)]
        with torch.no_grad():
            cond = text_encoder(networks.tokenize(tokenizer, texts)).last_hidden_state
        x, timesteps, wanted = with_noise(latents[chosen])
        return F.mse_loss(unet(x, timesteps, cond).sample, wanted)

    return loss_of


def _write(
    folder: Path,
    name: str,
    unet: torch.nn.Module,
    vae: networks.AutoencoderKL,
    text_encoder: networks.CLIPTextModel,
    scale: float,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Write the checkpoint's file, and the text encoder's configuration beside it."""
    folder.mkdir(exist_ok=True)
    write_checkpoint(folder / f"{name}.safetensors", unet, vae, text_encoder, scale, CLIP_FOLDER, params)
    networks.text_config().save_pretrained(folder / CLIP_FOLDER)


def _shared(folder: Path) -> tuple[networks.AutoencoderKL, networks.CLIPTextModel, float | None]:
    """Load the VAE and the text encoder, and the scale of the latents if it is settled.

    Where they were not trained in this folder, those of a bundled checkpoint: a UNet trained anew fits the others.
    """
    if not (folder / "vae.pt").exists():
        bundled = _bundled("shapes")
        vae, scale = bundled.autoencoder(torch.float32)
        return vae, bundled.text_encoder(torch.float32), scale
    vae, text_encoder = networks.new_vae(), networks.new_text_encoder()
    vae.load_state_dict(torch.load(folder / "vae.pt", weights_only=True))
    text_encoder.load_state_dict(torch.load(folder / "text.pt", weights_only=True))
    return vae.eval(), text_encoder.eval(), None


PARTS: dict[str, Callable[[Path], object]] = {
    "vae": train_vae,
    WIDE_VAE: train_wide_vae,
    WIDE: train_wide,
    f"{WIDE}-flow": train_wide_flow,
    "text": train_text,
    "judge": train_judge,
    "style-judge": train_style_judge,
    **{name: partial(train_unet, name=name, dialect=dialect) for name, dialect in DIALECT_OF.items()},
    **{f"{name}-larger": partial(train_larger, name=name, dialect=DIALECT_OF[name]) for name in LARGER},
    **{part: partial(train_flow, part=part, name=name, dialect=DIALECT_OF[name]) for part, name in FLOW_OF.items()},
    **{
        part: partial(train_styled, part=part, name=name, style=part.rpartition("-")[2], dialect=DIALECT_OF[name])
        for part, name in STYLED_OF.items()
    },
    "layout": train_layout,
    "encoder": train_encoder,
    "image": train_image,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("part", choices=PARTS, help="what is trained")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where states, logs and plots are kept")
    add_threads(parser, 2)


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    for weights in (WEIGHTS, ADAPTERS):
        weights.mkdir(exist_ok=True)
    PARTS[options.part](options.folder)
