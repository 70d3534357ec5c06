"""Adapter files: what a file is, told by its keys, and its tensors under one naming.

Tensors are named as `make.adapter_of` expects them: `image_proj.*` and `ip_adapter.<2n+1>.to_k_ip.weight` (IP-Adapter);
`position_net.*` and `<block>.fuser.*` (GLIGEN, InteractDiffusion); `<block>.migc.*` (MIGC), with `<block>` as
`attach.blocks_of` names blocks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..errors import AdapterError
from .container import Read, opened

FAMILIES = {768: "SD1", 1024: "SD2", 2048: "SDXL"}
"""The checkpoints' family by the width of their text contexts; files of other widths are of SD1's kind."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class AdapterInfo:
    """What a file is. kind: ip-adapter, gligen, interactdiffusion or migc; family: SD1 or SDXL; variant: base, plus or
    full (ip-adapter), 1.0, 1.1, 1.2 or empty (interactdiffusion, by the file's name), migc or migc++."""

    kind: str
    family: str
    variant: str
    name: str


@dataclass(frozen=True)
class AdapterFile(AdapterInfo):
    """An adapter's file with its tensors."""

    tensors: dict[str, Tensor] = field(default_factory=dict, repr=False)


def describe(path: str | Path) -> AdapterInfo:
    """What the file is, without reading its tensors; AdapterError where it is no adapter."""
    return told_apart(opened(path).shapes, Path(path).name)


def read_adapter(path: str | Path, inert: bool = False) -> AdapterFile:
    """The adapter in a file. inert: in a pickle that holds more than weights too, without the rest.

    Raises AdapterError, one sentence naming the file, for what is missing, damaged, no adapter or another's.
    """
    file = opened(path, inert)
    return _read(file.shapes, file.read, Path(path).name)


def adapter_file(tensors: Mapping[str, Tensor], name: str) -> AdapterFile:
    """The adapter that these tensors are, named as in any file; complaints call it `name`."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return _read(shapes, lambda keys: {key: tensors[key] for key in keys}, name)


def _read(shapes: Shapes, read: Read, name: str) -> AdapterFile:
    info = told_apart(shapes, name)
    names = _names(shapes, info.kind)
    tensors = {names[key]: value for key, value in read(names).items()}
    # a converter may have given the gates a dimension
    tensors = {key: value.reshape(()) if ".alpha_" in key else value for key, value in tensors.items()}
    _check(info, tensors)
    return AdapterFile(**vars(info), tensors=tensors)


# --------------------------------------------------------------------------------------------------------- kinds

_LORA = re.compile(
    r"^(lora|lycoris|oft)_|\.(lora_[AB]|lora_up|lora_down|hada_w|lokr_w|w_norm|diff)\b|_lora\.(up|down)\."
)


def told_apart(shapes: Shapes, name: str) -> AdapterInfo:
    """What a file with tensors of these names and shapes is; AdapterError, which calls it `name`, where no adapter."""

    try:
        return _kind({key.removeprefix("module."): shape for key, shape in shapes.items()}, name)
    except IndexError as error:
        raise AdapterError(f'"{name}" has tensors of a size that no adapter has; download it again.') from error


def _kind(shapes: Shapes, name: str) -> AdapterInfo:
    """The first rule that fits decides."""

    def refused(what: str) -> AdapterError:
        return AdapterError(f'"{name}" {what}.')

    if not shapes:
        raise refused("holds no tensors; choose an adapter file")
    if any(".migc." in key for key in shapes):
        plus = any(".migc.gamma" in key or "attn2.processor." in key for key in shapes)
        return AdapterInfo("migc", "SD1", "migc++" if plus else "migc", name)
    shapes = {_ip_name(key): shape for key, shape in shapes.items()}
    if any(key.startswith("ip_adapter.") for key in shapes) or any(key.startswith("image_proj.") for key in shapes):
        return _ip_info(shapes, name, refused)
    grounded = {_after_prefix(key): shape for key, shape in shapes.items()}
    if any(key.startswith("position_net.") for key in grounded) or any(".fuser." in key for key in grounded):
        return _grounding_info(grounded, name, refused)
    if any(_LORA.search(key) for key in shapes):
        raise refused("is a LoRA; write it into the prompt as <lora:name:weight> instead")
    if "model.diffusion_model.input_blocks.0.0.weight" in shapes:
        raise refused("is a checkpoint; choose it as the checkpoint, and an adapter file as the adapter")
    raise refused("is no adapter that AMDM knows; it takes IP-Adapter, GLIGEN, InteractDiffusion and MIGC files")


def _ip_info(shapes: Shapes, name: str, refused: Callable[[str], AdapterError]) -> AdapterInfo:
    image = {key.removeprefix("image_proj.") for key in shapes if key.startswith("image_proj.")}
    shape = {key.removeprefix("image_proj."): value for key, value in shapes.items()}
    faces = any(re.match(r"ip_adapter\.\d+\.to_\w+_lora\.", key) for key in shapes)
    if faces or ("proj.2.weight" in image and "proj.3.weight" not in image) or any("perceiver" in key for key in image):
        raise refused(
            "needs a face's features (FaceID, Portrait), which AMDM has not; choose a plain, plus or full-face one"
        )
    if "latents" in image and shape.get("proj_in.weight", (0, 0))[1] == 512:
        raise refused("is an InstantID file, which AMDM cannot run; choose a plain, plus or full-face IP-Adapter")
    first = shapes.get("ip_adapter.1.to_k_ip.weight")
    if first is None or not image:
        raise refused("is an IP-Adapter without all its parts; download it again")
    family = FAMILIES.get(first[1], "SD1")
    if family == "SD2":
        raise refused("is an IP-Adapter for SD2; choose one for SD1 or SDXL")
    variant = "full" if "proj.3.weight" in image else "plus" if "latents" in image else "base"
    if variant == "base" and "proj.weight" not in image:
        raise refused("is an IP-Adapter of a kind that AMDM does not know; choose a plain, plus or full-face one")
    return AdapterInfo("ip-adapter", family, variant, name)


def _grounding_info(shapes: Shapes, name: str, refused: Callable[[str], AdapterError]) -> AdapterInfo:
    if not any(key.startswith("position_net.") for key in shapes):
        raise refused("has a GLIGEN file's fusers but no position net; download it again")
    first = shapes.get("input_blocks.0.0.weight", shapes.get("conv_in.weight"))
    if first is not None and first[1] != 4:
        raise refused(
            "is a GLIGEN file for inpainting, which AMDM cannot run; choose the one for generation with text boxes"
        )
    if "position_net.linears_text.0.weight" in shapes:
        raise refused("is a GLIGEN file for text and pictures; choose the one for text boxes alone")
    actions = "position_net.linear_action.0.weight" in shapes
    if not actions and "position_net.null_positive_feature" not in shapes:
        raise refused("is a GLIGEN file for keypoints or maps, which AMDM cannot run; choose the one for text boxes")
    if not any(".fuser." in key for key in shapes):
        raise refused("has a GLIGEN file's position net but no fusers; download it again")
    width = shapes["position_net.null_positive_feature"][0]
    family = FAMILIES.get(width, "SD1")
    if family != "SD1":
        raise refused(f"is for {family}; only SD1's GLIGEN and InteractDiffusion files can be run")
    if not actions:
        return AdapterInfo("gligen", family, "text", name)
    version = re.search(r"v[-_.]?1(?:[-_.]([012]))?(?![0-9])", name, re.IGNORECASE)
    return AdapterInfo("interactdiffusion", family, f"1.{version[1] or 0}" if version else "", name)


# --------------------------------------------------------------------------------------------------------- names

_UNET_PART = re.compile(
    r"(?:^|\.)((?:input_blocks|middle_block|output_blocks|down_blocks|mid_block|up_blocks|position_net)\..*)$"
    r"|^(?:unet\.)?(conv_in\..*)$"
)
_DIFFUSERS = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.*)")
_MIGC = re.compile(r"(?:(input|output)_blocks\.(\d+)|middle_block)\..*?(?:transformer_blocks\.(\d+)\..*?)?migc\.(.+)")


def _after_prefix(key: str) -> str:
    match = _UNET_PART.search(key)
    return match[1] or match[2] if match else key


def _ip_name(key: str) -> str:
    """A training run's raw checkpoint calls the parts otherwise; one of several GPUs puts them in a module."""
    key = re.sub(r"^image_proj_model\.", "image_proj.", key.removeprefix("module."))
    return re.sub(r"^adapter_modules\.", "ip_adapter.", key)


def _names(shapes: Shapes, kind: str) -> dict[str, str]:
    """The adapter's own tensors among the file's: the file's names, and ours."""
    if kind == "ip-adapter":
        named = {key: _ip_name(key) for key in shapes}
        return {key: ours for key, ours in named.items() if re.match(r"(image_proj|ip_adapter)\.", ours)}
    named = _ldm_names({key: _after_prefix(key) for key in shapes})
    if kind != "migc":
        return {key: ours for key, ours in named.items() if ours.startswith("position_net.") or ".fuser." in ours}
    found = {key: _MIGC.search(ours) for key, ours in named.items() if ".migc." in ours}
    return {key: _migc_name(match) for key, match in found.items() if match}


def _ldm_names(named: Mapping[str, str]) -> dict[str, str]:
    """Names in diffusers' layout as ldm's. A level's blocks are counted from the file: SD1 has 2 down and 3 up."""
    matches = {key: _DIFFUSERS.match(name) for key, name in named.items()}
    most = {"down": 0, "up": 0}
    for match in filter(None, matches.values()):
        most[match[1]] = max(most[match[1]], int(match[3]) + 1)

    def ldm(key: str, name: str) -> str:
        match = matches[key]
        if not match:
            return name.replace("mid_block.attentions.0.", "middle_block.1.")
        side, level, index, rest = match[1], int(match[2]), int(match[3]), match[4]
        if side == "down":
            return f"input_blocks.{1 + (most['down'] + 1) * level + index}.1.{rest}"
        return f"output_blocks.{most['up'] * level + index}.1.{rest}"

    return {key: ldm(key, name) for key, name in named.items()}


def _migc_name(match: re.Match) -> str:
    """What stands between the block and `migc` differs from file to file."""
    side, number, depth, rest = match.groups()
    parent = f"{side}_blocks.{number}" if side else "middle_block"
    return f"{parent}.1.transformer_blocks.{depth or 0}.migc.{rest}"


# -------------------------------------------------------------------------------------------------------- checks

FUSER = (
    "alpha_attn", "alpha_dense", "linear.weight", "linear.bias", "attn.to_q.weight", "attn.to_k.weight",
    "attn.to_v.weight", "attn.to_out.0.weight", "attn.to_out.0.bias", "ff.net.0.proj.weight", "ff.net.0.proj.bias",
    "ff.net.2.weight", "ff.net.2.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
)  # fmt: skip
_MLP = tuple(f"{number}.{part}" for number in (0, 2, 4) for part in ("weight", "bias"))
POSITION_NET = {
    "gligen": (*(f"linears.{part}" for part in _MLP), "null_positive_feature", "null_position_feature"),
    "interactdiffusion": (
        *(f"{net}.{part}" for net in ("linears", "linear_action") for part in _MLP),
        "interaction_embedding.emb.weight",
        "position_embedding.emb.weight",
        "null_positive_feature",
        "null_action_feature",
        "null_position_feature",
    ),
}
_IMAGE_PROJ = {
    "base": ("proj.weight", "proj.bias", "norm.weight", "norm.bias"),
    "full": tuple(f"proj.{number}.{part}" for number in (0, 2, 3) for part in ("weight", "bias")),
    "plus": (
        "latents",
        *(f"{name}.{part}" for name in ("proj_in", "proj_out", "norm_out") for part in ("weight", "bias")),
    ),
}
_RESAMPLER_LAYER = (
    "0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias", "0.to_q.weight", "0.to_kv.weight",
    "0.to_out.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight",
)  # fmt: skip
_MIGC_LAYER = (
    *(f"{part}.to_{x}.weight" for part in ("ea", "la") for x in "qkv"),
    *(f"{part}.to_out.0.{x}" for part in ("ea", "la") for x in ("weight", "bias")),
    *(f"{name}.{x}" for name in ("norm", "sac.conv2", "sac.cbam2.ChannelGate.mlp.1") for x in ("weight", "bias")),
    *(f"sac.cbam2.ChannelGate.mlp.3.{x}" for x in ("weight", "bias")),
    "sac.cbam2.SpatialGate.spatial.conv.weight",
    *(f"pos_net.linears_position.{part}" for part in _MLP),
)
_MIGC_OWN = {
    "migc": (
        *(f"sac.{name}.{x}" for name in ("conv1", "cbam1.ChannelGate.mlp.1", "cbam1.ChannelGate.mlp.3")
          for x in ("weight", "bias")),
        "sac.cbam1.SpatialGate.spatial.conv.weight",
    ),
    "migc++": ("gamma",),
}  # fmt: skip


def _check(info: AdapterInfo, tensors: Mapping[str, Tensor]) -> None:
    """AdapterError where a tensor is missing."""
    wanted = set(_wanted(info, tensors))
    missing = sorted(wanted - set(tensors))
    if missing:
        raise AdapterError(
            f'"{info.name}" lacks {len(missing)} of its tensors (first {missing[0]}); download it again.'
        )


def _wanted(info: AdapterInfo, tensors: Mapping[str, Tensor]) -> list[str]:
    if info.kind == "ip-adapter":
        layers = {key.split(".")[1] for key in tensors if key.startswith("ip_adapter.")}
        wanted = [f"ip_adapter.{n}.{part}.weight" for n in layers for part in ("to_k_ip", "to_v_ip")]
        wanted += [f"image_proj.{part}" for part in _IMAGE_PROJ[info.variant]]
        depths = {key.split(".")[2] for key in tensors if key.startswith("image_proj.layers.")}
        return wanted + [f"image_proj.layers.{n}.{part}" for n in depths for part in _RESAMPLER_LAYER]
    if info.kind == "migc":
        blocks = {key.split(".migc.")[0] for key in tensors}
        return [f"{block}.migc.{part}" for block in blocks for part in (*_MIGC_LAYER, *_MIGC_OWN[info.variant])]
    blocks = {key.split(".fuser.")[0] for key in tensors if ".fuser." in key}
    wanted = [f"{block}.fuser.{part}" for block in blocks for part in FUSER]
    return wanted + [f"position_net.{part}" for part in POSITION_NET[info.kind]]
