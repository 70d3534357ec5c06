"""The latents of a pipeline: their space, and their form as the VAE has them."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from ...errors import AmdmError

_SPACE = ("latent_channels", "z_dim", "scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""The entries of a VAE's configuration that say what the numbers of its latents mean."""
_UNPACKING = ["latents", "height", "width", "vae_scale_factor"]


def space_of(pipe: Any) -> list[Any]:
    """Return what two pipelines must have in common to share latents; nothing if the VAE does not say."""
    vae = getattr(pipe, "vae", None)
    # a tiny autoencoder is made for the latents of another VAE, and lacks that one's numbers
    if vae is None or type(vae).__name__ == "AutoencoderTiny":
        return []
    entries = [vae.config.get(name) for name in _SPACE]
    numbers = [tuple(entry) if isinstance(entry, list) else entry for entry in entries]
    return [type(vae).__name__, pipe.vae_scale_factor, *numbers]


def unpacked(pipe: Any, latents: Tensor, height: int | None, width: int | None) -> Tensor:
    """Return a pipeline's latents as (batch, channels, ..., height, width), from the size of the picture in pixels."""
    if latents.ndim != 3:
        return latents
    name, scale, unpack = type(pipe).__name__, pipe.vae_scale_factor, getattr(pipe, "_unpack_latents", None)
    if unpack is None or [*inspect.signature(unpack).parameters] != _UNPACKING:
        raise AmdmError(f"AMDM does not know how {name} packs its latents; choose another pipeline.")
    height, width = (side or pipe.default_sample_size * scale for side in (height, width))
    if (height // (2 * scale)) * (width // (2 * scale)) != latents.shape[1]:
        raise AmdmError(
            f"AMDM: the latents of {name} have {latents.shape[1]} places, but not in a picture of {width}x{height} "
            "pixels; give the call the picture's height and width."
        )
    return unpack(latents, height, width, scale)


def packed(pipe: Any, latents: Tensor) -> Tensor:
    """Return latents (batch, channels, ..., height, width) as the pipeline has them."""
    batch, channels, *_, height, width = latents.shape
    pack = getattr(pipe, "_pack_latents", None)
    return latents if pack is None else pack(latents.flatten(1), batch, channels, height, width)
