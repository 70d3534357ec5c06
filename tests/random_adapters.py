"""Adapter files of random weights in the published formats, in sizes that fit the tests' small checkpoints.

Sizes are read from a checkpoint's own names, so one recipe serves every WebUI's small checkpoints and the bundled ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "model.diffusion_model."
KEY = ".attn2.to_k.weight"
HIDDEN = 48
"""Width within the position nets; the published 512 would make large files of small ones."""
ENCODER_WIDTH, PROJECTION, ENCODER_LAYERS = 64, 32, 2
SIZE, PATCH = 28, 14
GATE = 0.7

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


class Random:
    """Weights of a seed: norms near 1, and the rest so that a layer's output is of its input's order."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> Tensor:
        fan_in = shape[1] if len(shape) > 1 else 25
        return torch.randn(shape, generator=self.generator) / fan_in**0.5

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> Tensors:
        told = {f"{name}.weight": self(outputs, inputs)}
        return told | ({f"{name}.bias": self(outputs)} if bias else {})

    def norm(self, name: str, width: int) -> Tensors:
        return {f"{name}.weight": 1 + self(width) / 2, f"{name}.bias": self(width)}


def ip_adapter(shape: Shape, seed: int = 1, plus: bool = False, tokens: int = 4) -> Tensors:
    """IP-Adapter (base, or plus with its resampler), flat names as in the .safetensors files."""
    random, d = Random(seed), shape.context
    if plus:
        inner = 64
        made = {"latents": random(1, tokens, inner)}
        made |= random.linear("proj_in", inner, ENCODER_WIDTH) | random.linear("proj_out", d, inner)
        made |= random.norm("norm_out", d)
        for n in range(2):
            made |= random.norm(f"layers.{n}.0.norm1", inner) | random.norm(f"layers.{n}.0.norm2", inner)
            for part, outputs in (("to_q", inner), ("to_kv", 2 * inner), ("to_out", inner)):
                made |= random.linear(f"layers.{n}.0.{part}", outputs, inner, bias=False)
            made |= random.norm(f"layers.{n}.1.0", inner)
            made |= random.linear(f"layers.{n}.1.1", 4 * inner, inner, bias=False)
            made |= random.linear(f"layers.{n}.1.3", inner, 4 * inner, bias=False)
    else:
        made = random.linear("proj", tokens * d, PROJECTION) | random.norm("norm", d)
    told = {f"image_proj.{name}": tensor for name, tensor in made.items()}
    # down, up, middle
    for n, block in enumerate(sorted(shape.blocks, key=lambda name: name.startswith("middle"))):
        width = shape.blocks[block]
        for part in ("to_k_ip", "to_v_ip"):
            told |= random.linear(f"ip_adapter.{2 * n + 1}.{part}", width, d, bias=False)
    return told


def _position_mlp(random: Random, name: str, inputs: int, outputs: int) -> Tensors:
    widths = (inputs, HIDDEN, HIDDEN, outputs)
    made: Tensors = {}
    for n, (before, after) in enumerate(itertools.pairwise(widths)):
        made |= random.linear(f"{name}.{2 * n}", after, before)
    return made


def _fusers(random: Random, shape: Shape) -> Tensors:
    made: Tensors = {}
    for block, c in shape.blocks.items():
        name = f"{block}.fuser"
        made |= {f"{name}.alpha_attn": torch.tensor(GATE), f"{name}.alpha_dense": torch.tensor(GATE)}
        made |= random.linear(f"{name}.linear", c, shape.context)
        for part in ("to_q", "to_k", "to_v"):
            made |= random.linear(f"{name}.attn.{part}", c, c, bias=False)
        made |= random.linear(f"{name}.attn.to_out.0", c, c)
        made |= random.linear(f"{name}.ff.net.0.proj", 8 * c, c) | random.linear(f"{name}.ff.net.2", c, 4 * c)
        made |= random.norm(f"{name}.norm1", c) | random.norm(f"{name}.norm2", c)
    return made


def gligen(shape: Shape, seed: int = 2) -> Tensors:
    """GLIGEN for text boxes, as the pruned file has it."""
    random, d = Random(seed), shape.context
    made = _fusers(random, shape) | _position_mlp(random, "position_net.linears", d + 64, d)
    nulls = {"position_net.null_positive_feature": random(d), "position_net.null_position_feature": random(64)}
    return made | nulls


def interactdiffusion(shape: Shape, seed: int = 3) -> Tensors:
    """InteractDiffusion, as the file for the WebUI's extension has it."""
    random, d = Random(seed), shape.context
    made = gligen(shape, seed) | _position_mlp(random, "position_net.linear_action", d + 64, d)
    return made | {
        "position_net.interaction_embedding.emb.weight": random(30, d),
        "position_net.position_embedding.emb.weight": random(3, d),
        "position_net.null_action_feature": random(d),
    }


def migc(shape: Shape, seed: int = 4) -> Tensors:
    """MIGC in the middle and the first output block, as its .ckpt has it."""
    random, d = Random(seed), shape.context
    chosen = [next(name for name in shape.blocks if name.startswith(side)) for side in ("middle", "output")]
    made: Tensors = {}
    for block in chosen:
        c, name = shape.blocks[block], f"{PREFIX}{block}.attn2.migc"
        for part, inputs in (("to_q", c), ("to_k", d), ("to_v", d)):
            made |= random.linear(f"{name}.ea.{part}", c, inputs, bias=False)
        for part in ("to_q", "to_k", "to_v"):
            made |= random.linear(f"{name}.la.{part}", c, c, bias=False)
        for part in ("ea", "la"):
            made |= random.linear(f"{name}.{part}.to_out.0", c, c)
        made |= random.norm(f"{name}.norm", c)
        made |= {f"{name}.sac.conv1.weight": random(c, c + 1, 1, 1), f"{name}.sac.conv1.bias": random(c)}
        made |= {f"{name}.sac.conv2.weight": random(1, c, 1, 1), f"{name}.sac.conv2.bias": random(1)}
        gate = f"{name}.sac.cbam1.ChannelGate.mlp"
        made |= random.linear(f"{gate}.1", c // 16, c) | random.linear(f"{gate}.3", c, c // 16)
        gate = f"{name}.sac.cbam2.ChannelGate.mlp"
        made |= random.linear(f"{gate}.1", 30, 30) | random.linear(f"{gate}.3", 30, 30)
        for n in (1, 2):
            made[f"{name}.sac.cbam{n}.SpatialGate.spatial.conv.weight"] = random(1, 2, 7, 7)
        made |= _position_mlp(random, f"{name}.pos_net.linears_position", 64, d)
    return made


def clip_vision(seed: int = 5) -> Tensors:
    """An image encoder in transformers' layout."""
    random, w = Random(seed), ENCODER_WIDTH
    inner = "vision_model"
    made = {
        f"{inner}.embeddings.class_embedding": random(w),
        f"{inner}.embeddings.patch_embedding.weight": random(w, 3, PATCH, PATCH) / PATCH,
        f"{inner}.embeddings.position_embedding.weight": random((SIZE // PATCH) ** 2 + 1, w),
        "visual_projection.weight": random(PROJECTION, w),
    }
    made |= random.norm(f"{inner}.pre_layrnorm", w) | random.norm(f"{inner}.post_layernorm", w)
    for n in range(ENCODER_LAYERS):
        layer = f"{inner}.encoder.layers.{n}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            made |= random.linear(f"{layer}.self_attn.{part}", w, w)
        made |= random.linear(f"{layer}.mlp.fc1", 2 * w, w) | random.linear(f"{layer}.mlp.fc2", w, 2 * w)
        made |= random.norm(f"{layer}.layer_norm1", w) | random.norm(f"{layer}.layer_norm2", w)
    return made


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
