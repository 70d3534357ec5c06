"""Adapter files of random weights in the published formats, in sizes that fit the tests' small checkpoints.

Sizes are read from a checkpoint's own names, so one recipe serves every WebUI's small checkpoints and the bundled ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from adapter_files import gligen_shapes, interactdiffusion_shapes, ip_shapes, linear, migc_shapes, norm, random_tensors
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "model.diffusion_model."
KEY = ".attn2.to_k.weight"
HIDDEN = 48
"""Width within the position nets; the published 512 would make large files of small ones."""
ENCODER_WIDTH, PROJECTION, ENCODER_LAYERS = 64, 32, 2
SIZE, PATCH = 28, 14

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """The transformer blocks of a checkpoint's UNet with their widths, and the width of its text contexts."""

    blocks: dict[str, int]
    context: int

    @classmethod
    def of(cls, checkpoint: Path) -> Shape:
        with safe_open(str(checkpoint), "pt") as file:
            found = {
                name.removeprefix(PREFIX).removesuffix(KEY): tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118
                if name.startswith(PREFIX) and name.endswith(KEY)
            }
        # a file's names are in the order of letters: 10 stands before 2
        ordered = sorted(found, key=_order)
        return cls({name: found[name][0] for name in ordered}, next(iter(found.values()))[1])


def _order(name: str) -> tuple[int, list[int]]:
    side = ("input_blocks", "middle_block", "output_blocks").index(name.split(".")[0])
    return side, [int(part) for part in name.split(".") if part.isdigit()]


def ip_adapter(shape: Shape, seed: int = 1, plus: bool = False, tokens: int = 4) -> Tensors:
    """IP-Adapter (base, or plus with a small resampler), flat names as in the .safetensors files."""
    if plus:
        shapes = ip_shapes(shape.blocks, shape.context, "plus", ENCODER_WIDTH, tokens, inner=64, depth=2)
    else:
        shapes = ip_shapes(shape.blocks, shape.context, "base", PROJECTION, tokens)
    return random_tensors(shapes, seed=seed, by_fan_in=True)


def gligen(shape: Shape, seed: int = 2) -> Tensors:
    """GLIGEN for text boxes, as the pruned file has it."""
    return random_tensors(gligen_shapes(shape.blocks, shape.context, HIDDEN), seed=seed, by_fan_in=True)


def interactdiffusion(shape: Shape, seed: int = 3) -> Tensors:
    """InteractDiffusion, as the file for the WebUI's extension has it."""
    return random_tensors(interactdiffusion_shapes(shape.blocks, shape.context, HIDDEN), seed=seed, by_fan_in=True)


def migc(shape: Shape, seed: int = 4) -> Tensors:
    """MIGC in the middle and the first output block, as its .ckpt has it."""
    chosen = (next(name for name in shape.blocks if name.startswith(side)) for side in ("middle", "output"))
    blocks = tuple(name.removesuffix(".transformer_blocks.0") for name in chosen)
    shapes = migc_shapes(shape.blocks, shape.context, blocks=blocks, hidden=HIDDEN)
    return random_tensors(shapes, seed=seed, by_fan_in=True)


def clip_vision(seed: int = 5) -> Tensors:
    """An image encoder in transformers' layout."""
    w, inner = ENCODER_WIDTH, "vision_model"
    patches = f"{inner}.embeddings.patch_embedding.weight"
    shapes = {
        f"{inner}.embeddings.class_embedding": (w,),
        patches: (w, 3, PATCH, PATCH),
        f"{inner}.embeddings.position_embedding.weight": ((SIZE // PATCH) ** 2 + 1, w),
        "visual_projection.weight": (PROJECTION, w),
        **norm(f"{inner}.pre_layrnorm", w),
        **norm(f"{inner}.post_layernorm", w),
    }
    for layer in (f"{inner}.encoder.layers.{n}" for n in range(ENCODER_LAYERS)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{layer}.self_attn.{part}", w, w)
        shapes |= {**linear(f"{layer}.mlp.fc1", 2 * w, w), **linear(f"{layer}.mlp.fc2", w, 2 * w)}
        shapes |= {**norm(f"{layer}.layer_norm1", w), **norm(f"{layer}.layer_norm2", w)}
    tensors = random_tensors(shapes, seed=seed, by_fan_in=True)
    return {**tensors, patches: tensors[patches] / PATCH}


IP_ADAPTER, IP_PLUS = "ip-adapter_tiny.safetensors", "ip-adapter-plus_tiny.bin"
GLIGEN, INTERACT, MIGC = "gligen_tiny.safetensors", "ext_interactdiff_tiny.pth", "MIGC_tiny.ckpt"
ENCODER = "CLIP-ViT-tiny.safetensors"
KINDS = (IP_ADAPTER, IP_PLUS, GLIGEN, INTERACT, MIGC)
BOXES = "a red ball: 0.1 0.1 0.6 0.7\na blue square: 0.5 0.4 0.95 0.9"
ACTION = f"{BOXES}\na red ball > hits > a blue square"
LAYOUTS = {GLIGEN: BOXES, INTERACT: ACTION, MIGC: BOXES}


def nested(tensors: Mapping[str, Tensor], groups: Sequence[str] = ("image_proj", "ip_adapter")) -> dict[str, Tensors]:
    """The groups' tensors as the .bin files have them, one dictionary within another."""
    start = {group: f"{group}." for group in groups}
    return {
        group: {name[len(start[group]) :]: t for name, t in tensors.items() if name.startswith(start[group])}
        for group in groups
    }


def save_pickle(what: object, file: Path) -> None:
    """As older versions of torch did, and so the published files: A1111's safe loader knows no other."""
    torch.save(what, file, _use_new_zipfile_serialization=False)


def write(folder: Path, shape: Shape) -> None:
    """One file of each kind, each in the container that its published file has, and an image encoder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(ip_adapter(shape), folder / IP_ADAPTER)
    save_pickle(nested(ip_adapter(shape, plus=True)), folder / IP_PLUS)
    save_file(gligen(shape), folder / GLIGEN)
    save_pickle(interactdiffusion(shape), folder / INTERACT)
    save_pickle({"state_dict": migc(shape)}, folder / MIGC)
    save_file(clip_vision(), folder / ENCODER)
