"""The training data of the networks: pictures drawn afresh, and a stock of pictures as latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from .scenes import Box, Scene, draw, draw_with_boxes, random_scene

STOCK = 16_000
"""Pictures whose latents the UNets are trained on."""
STOCK_SEED = 7


def drawn_scenes(count: int, rng: np.random.Generator) -> list[Scene]:
    return [random_scene(rng) for _ in range(count)]


def drawings(count: int, rng: np.random.Generator) -> tuple[list[Scene], torch.Tensor]:
    """Draw random scenes: the scenes and their pictures, (count, 3, SIZE, SIZE) from -1 to 1."""
    scenes = drawn_scenes(count, rng)
    return scenes, pictures_of(scenes, rng)


def pictures_of(scenes: list[Scene], rng: np.random.Generator, scale: int = 1) -> torch.Tensor:
    """Draw each scene, (scenes, 3, scale SIZE, scale SIZE) from -1 to 1."""
    drawn = np.stack([draw(scene, rng, scale) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2) * 2 - 1


def stock_scenes(count: int = STOCK, style: str = "filled") -> list[Scene]:
    """Return the stock's first `count` scenes in a style."""
    return [scene.in_style(style) for scene in drawn_scenes(count, np.random.default_rng(STOCK_SEED))]


def stock_boxes(count: int = STOCK) -> list[list[Box]]:
    """Return the boxes around the things in each of the stock's first `count` pictures."""
    rng = np.random.default_rng(STOCK_SEED + 1)
    return [draw_with_boxes(scene, rng)[1] for scene in stock_scenes(count)]


@torch.no_grad()
def stock_latents(
    vae: AutoencoderKL, file: Path, count: int = STOCK, scale: int = 1, style: str = "filled"
) -> torch.Tensor:
    """Encode the stock's first `count` pictures in a style: the means of their latents, unscaled.

    They are (count, channels, 16 scale, 16 scale) in float16, encoded once and kept in `file`.
    """
    if file.exists():
        return torch.load(file, weights_only=True)
    rng = np.random.default_rng(STOCK_SEED + 1)
    scenes = stock_scenes(count, style)
    encoded = []
    for begin in range(0, count, 16):
        pictures = pictures_of(scenes[begin : begin + 16], rng, scale)
        encoded.append(vae.encode(pictures).latent_dist.mean.half())
    latents = torch.cat(encoded)
    torch.save(latents, file)
    return latents
