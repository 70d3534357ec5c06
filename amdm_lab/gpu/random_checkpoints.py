"""Whole SD1.5 checkpoints of random weights, as files that the standalone host and a WebUI read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel

from lib_amdm.command_line import put
from lib_amdm.errors import AmdmError

from ..export import write_clip_folder
from ..studio.checkpoint_file import CLIP_L, SD1
from ..training import networks
from ..training.ldm_format import write_checkpoint
from .random_unets import UNETS, new_unet

BYTES = 2_200_000_000
"""Of one file of SD1.5's size, a little more than it has."""
SCALE = cast(float, SD1["scale_factor"])
"""The factor of SD1's latents."""
_CHANNELS = (128, 256, 512, 512)


def names(count: int, tiny: bool) -> list[str]:
    """Return the files' names, the main checkpoint's first."""
    size = "tiny" if tiny else "sd15"
    return [f"amdm-random-{size}-{number}.safetensors" for number in range(count)]


def write(folder: Path, count: int, device: torch.device, tiny: bool, say: Callable[[str], None]) -> list[Path]:
    """Write as many checkpoints as are missing in a folder; return all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in names(count, tiny)]
    missing = [(number, file) for number, file in enumerate(files) if not file.is_file()]
    free = shutil.disk_usage(folder).free
    if not tiny and free < len(missing) * BYTES:
        raise AmdmError(
            f'"{folder}" has room for {free / 1e9:.0f} GB, but {len(missing)} checkpoints of SD1.5\'s size take '
            f"{len(missing) * BYTES / 1e9:.0f} GB; name another folder with --folder, or ask for fewer --co-models."
        )
    for number, file in missing:
        say(f"writing {file.name}")
        _write(file, number, device, tiny)
    return files


def _write(file: Path, seed: int, device: torch.device, tiny: bool) -> None:
    torch.manual_seed(seed)
    unfinished = file.with_name(f"unfinished-{file.name}")
    if tiny:
        parts = networks.new_unet(), networks.new_vae(), networks.new_text_encoder()
        write_checkpoint(unfinished, *parts, SCALE, str(write_clip_folder(file.parent.resolve() / "amdm-random-clip")))
        unfinished.with_suffix(".yaml").replace(file.with_suffix(".yaml"))
    else:
        unet = new_unet({**UNETS["sd15"], "sample_size": 64}, device, torch.float16)
        with torch.device(device):
            vae = AutoencoderKL(
                block_out_channels=_CHANNELS,
                down_block_types=("DownEncoderBlock2D",) * len(_CHANNELS),
                up_block_types=("UpDecoderBlock2D",) * len(_CHANNELS),
                layers_per_block=2,
                latent_channels=4,
            )
            text_encoder = CLIPTextModel(CLIPTextConfig(**CLIP_L))
        write_checkpoint(unfinished, unet, vae, text_encoder, SCALE, "")
        # a file without one is read as SD1 by all
        unfinished.with_suffix(".yaml").unlink()
    put(unfinished, file)
