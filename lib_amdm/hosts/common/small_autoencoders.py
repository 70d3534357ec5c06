"""The WebUI's small approximate autoencoders (TAESD) instead of the models' own, for co-models through pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from modules import devices, paths_internal, sd_vae_taesd
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...core.readings import Stopwatch
from ...errors import AmdmError, cause
from ...families import Family
from .autoencoders import PassAutoencoder

FOLDER = "VAE-taesd"
"""Below the WebUI's folder of models, where it keeps what it has downloaded for previews and its own use."""
NAMES = {"SD1": "taesd", "SDXL": "taesdxl", "Flux": "taef1", "Flux2": "taef2"}
"""The beginnings of the files' names, by latent space."""
CHANNELS = {"Flux": 16, "Flux2": 128}
USUAL_CHANNELS = 4
PACKED = {"Flux2": 2}
"""The sides of the squares of latent pixels that the model packs into its channels, by latent space."""


class SmallAutoencoder(nn.Module):
    """An encoder and a decoder of a model's scaled latents. Pictures are from -1 to 1, as in other autoencoders."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, packed: int) -> None:
        """Join the two parts. packed: see `PACKED`; the host's own encoder fails there."""
        super().__init__()
        self.encoder, self.decoder, self.packed = encoder, decoder, packed

    def decode(self, latents: Tensor) -> Tensor:
        pictures: Tensor = self.decoder(F.pixel_shuffle(latents, self.packed)) * 2 - 1
        return pictures

    def encode(self, pictures: Tensor) -> Tensor:
        return F.pixel_unshuffle(self.encoder((pictures + 1) / 2), self.packed)


def small_autoencoder(family: Family, stopwatch: Stopwatch) -> PassAutoencoder | None:
    """Return the small autoencoder for a family's latents; None if the WebUI does not have both of its files."""
    name, channels = NAMES.get(family.space), CHANNELS.get(family.space, USUAL_CHANNELS)
    files = [Path(paths_internal.models_path) / FOLDER / f"{name}_{part}.pth" for part in ("encoder", "decoder")]
    if name is None or not all(file.is_file() for file in files):
        return None
    try:
        encoder = sd_vae_taesd.TAESDEncoder(str(files[0]), channels).encoder
        decoder = sd_vae_taesd.TAESDDecoder(str(files[1]), channels).decoder
    except Exception as error:
        raise AmdmError(
            f'AMDM: "{files[0].name}" or "{files[1].name}" cannot be read ({cause(error)}); delete both in '
            f"models/{FOLDER}, or switch small autoencoders off in Settings > AMDM."
        ) from error
    network = (
        SmallAutoencoder(encoder, decoder, PACKED.get(family.space, 1))
        .eval()
        .requires_grad_(False)
        .to(devices.device, devices.dtype)
    )
    return PassAutoencoder(network, _same, _same, _in_place, stopwatch)


def _same(latents: Tensor) -> Tensor:
    return latents


@contextmanager
def _in_place(x: Tensor, decodes: bool) -> Iterator[torch.device]:
    with devices.without_autocast():
        yield devices.device
