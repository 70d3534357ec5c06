"""Checkpoints and adapter files of random weights with the names, formats and sizes of the published ones."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from adapter_files import (
    Shapes,
    gligen_shapes,
    interactdiffusion_shapes,
    ip_shapes,
    migc_shapes,
    random_tensors,
    sd1_unet,
    sdxl_unet,
    widths_of,
)
from random_adapters import nested, save_pickle
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from .hosts import Host
from .webui_server import offline_environment

CHECKPOINTS = Path(__file__).resolve().with_name("checkpoints.py")
MAIN, OTHER, XL = "alpha", "gamma", "xl-alpha"
IP_ADAPTER, IP_PLUS = "ip-adapter_sd15.safetensors", "ip-adapter-plus_sd15.bin"
GLIGEN = "gligen_sd14_textbox_pruned_fp16.safetensors"
INTERACT = "ext_interactdiff_v1.2.pth"
MIGC, MIGC_PLUS = "MIGC_SD14.ckpt", "MIGC++_SD14.ckpt"
ENCODER = "CLIP-ViT-H-14.safetensors"
KINDS = (IP_ADAPTER, IP_PLUS, GLIGEN, INTERACT, MIGC, MIGC_PLUS)
XL_BASE, XL_PLUS = "ip-adapter_sdxl_vit-h.safetensors", "ip-adapter-plus_sdxl_vit-h.safetensors"
XL_KINDS = (XL_BASE, XL_PLUS)


def checkpoints(folder: Path, host: Host, names: Iterable[str]) -> Path:
    """The folder of these full-size checkpoints; what is missing is made with the WebUI's own classes."""
    missing = [name for name in names if not (folder / f"{name}.safetensors").exists()]
    if missing:
        told = ["--out", str(folder), "--sizes", "full", "--only", *missing, *host.cpu_flags]
        subprocess.run(
            [host.python(), str(CHECKPOINTS), *told],
            cwd=host.directory(),
            env=offline_environment(folder / "hub"),
            check=True,
        )
    return folder


def adapters(folder: Path, names: Iterable[str]) -> Path:
    """The folder of these adapter files; what is missing is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / name).exists():
            MAKERS[name](folder / name)
    return folder


def _sd1(make: Callable[..., Shapes], dtype: torch.dtype, seed: int, **told: object) -> dict[str, Tensor]:
    return random_tensors(make(widths_of(sd1_unet()), 768, **told), dtype, seed, by_fan_in=True)


def _xl(variant: str, features: int, seed: int) -> dict[str, Tensor]:
    shapes = ip_shapes(widths_of(sdxl_unet()), 2048, variant, features)
    return random_tensors(shapes, torch.float16, seed, by_fan_in=True)


def _encoder(file: Path) -> None:
    """ViT-H/14, as IP-Adapter's SD1 files want it."""
    config = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1024,
        hidden_act="gelu",
    )
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in CLIPVisionModelWithProjection(config).state_dict().items()}
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith("position_ids")}
    save_file(random_tensors(wanted, torch.float16, 7, by_fan_in=True), file)


MAKERS: dict[str, Callable[[Path], None]] = {
    IP_ADAPTER: lambda file: save_file(_sd1(ip_shapes, torch.float16, 1), file),
    IP_PLUS: lambda file: save_pickle(nested(_sd1(ip_shapes, torch.float16, 2, variant="plus")), file),
    GLIGEN: lambda file: save_file(_sd1(gligen_shapes, torch.float16, 3), file),
    INTERACT: lambda file: save_pickle(_sd1(interactdiffusion_shapes, torch.float16, 4), file),
    MIGC: lambda file: save_pickle({"state_dict": _sd1(migc_shapes, torch.float32, 5)}, file),
    MIGC_PLUS: lambda file: save_pickle(_sd1(migc_shapes, torch.float32, 6, plus=True), file),
    ENCODER: _encoder,
    XL_BASE: lambda file: save_file(_xl("base", 1024, 8), file),
    XL_PLUS: lambda file: save_file(_xl("plus", 1280, 9), file),
}
