"""SD1 checkpoints for diffusers and transformers: files in ldm's layout, and the yaml that may lie beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    create_unet_diffusers_config_from_ldm,
    create_vae_diffusers_config_from_ldm,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from lib_amdm.errors import AmdmError, cause
from lib_amdm.files.container import open_tensors
from lib_amdm.files.pickles import Refused

from .tokenizer import TOKENS, VOCABULARY

SUFFIXES = (".safetensors", ".ckpt", ".pt")
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
TEXT_INNER = "text_model."
_NEEDED = {
    UNET: re.compile(""),
    VAE: re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\."),
    TEXT: re.compile(rf"({re.escape(TEXT_INNER)})?(encoder|final_layer_norm|embeddings\.(token|position)_embedding)\."),
}
"""The parts of a network's tensors that are its own: some files carry more."""
_V, _TERMINAL = "v_pred", "ztsnr"
"""Empty tensors that mark a file, as ComfyUI reads it: it predicts v; its noise schedule ends at nothing but noise."""
_TERMINAL_SHARE = 4.8973451890853435e-08
"""Of the picture in the variance at that end, where 0 would be a noise level without bound: a level of 4519."""
_SCALES = ("scaled_fp8", ".scale_weight", ".weight_scale")
"""Ends of the names of tensors without which the others' numbers mean nothing."""

SD1 = {
    "linear_start": 0.00085,
    "linear_end": 0.012,
    "timesteps": 1000,
    "scale_factor": 0.18215,
    "unet_config": {
        "params": {
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "attention_resolutions": [4, 2, 1],
            "num_res_blocks": 2,
            "channel_mult": [1, 2, 4, 4],
            "num_heads": 8,
            "transformer_depth": 1,
            "context_dim": 768,
        }
    },
    "first_stage_config": {
        "params": {
            "ddconfig": {
                "z_channels": 4,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 128,
                "ch_mult": [1, 2, 4, 4],
                "num_res_blocks": 2,
            }
        }
    },
}
"""The entries of Stable Diffusion 1's own v1-inference.yaml, for files that have none beside them."""

CLIP_L: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": TOKENS,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
"""openai/clip-vit-large-patch14, the text encoder of Stable Diffusion 1."""


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint in ldm's layout. `error_prefix` opens every complaint about it: "AMDM", or "AMDM co-model 2"."""

    path: Path
    title: str
    error_prefix: str = "AMDM"

    @property
    def yaml(self) -> Path:
        return self.path.with_suffix(".yaml")

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """The yaml's entries for the model, in ldm's layout; SD1's own values where there is no yaml."""
        if not self.yaml.is_file():
            return SD1
        try:
            return dict(yaml.safe_load(self.yaml.read_text(encoding="utf-8"))["model"]["params"])
        except Exception as error:
            raise self._error(
                f'has a description, "{self.yaml.name}", that cannot be read ({cause(error)}); '
                "correct it, or remove it if this is a plain SD1 checkpoint"
            ) from error

    def alphas_cumprod(self) -> Tensor:
        """The share of the picture in the variance at each of the training's timesteps, float32 from float64."""
        with self._fitting("noise schedule"):
            ends = (self.params["linear_start"] ** 0.5, self.params["linear_end"] ** 0.5)
            betas = torch.linspace(*ends, self.params["timesteps"], dtype=torch.float64) ** 2
        shares = (1 - betas).cumprod(0)
        if _TERMINAL in self._marks:
            if not self.predicts_v:
                raise self._error(
                    f"is marked as a zero-terminal-SNR model ({_TERMINAL}), but predicts noise, which says nothing of "
                    "the picture at its highest level; choose another checkpoint"
                )
            shares = _until_nothing(shares)
        return shares.float()

    @property
    def predicts_v(self) -> bool:
        return _V in self._marks or self._parameterization == "v"

    @property
    def is_flow(self) -> bool:
        """It predicts the velocity of a rectified flow, and has no noise schedule."""
        return self._parameterization == "flow"

    @property
    def shift(self) -> float:
        """The shift of a flow model's noise levels: 1 for evenly spread ones, more for more of the high ones."""
        with self._fitting("shift"):
            return float(self.params.get("shift", 1.0))

    @property
    def _parameterization(self) -> str:
        return self.params.get("parameterization", "eps")

    @cached_property
    def _marks(self) -> frozenset[str]:
        names, _ = self._read(_V)
        return frozenset(names) & {_V, _TERMINAL}

    @property
    def clip_folder(self) -> Path | None:
        """The folder of the text encoder's configuration and tokenizer, which the yaml names relative to itself."""
        stage = self.params.get("cond_stage_config") or {}
        version = (stage.get("params") or {}).get("version")
        return self.yaml.parent / version if version else None

    def unet(self, dtype: torch.dtype) -> UNet2DConditionModel:
        weights = self._weights(UNET)
        with self._fitting("UNet"), torch.device("meta"):
            settings = create_unet_diffusers_config_from_ldm(self._config, {})
            converted = convert_ldm_unet_checkpoint(weights, settings)
            network = UNet2DConditionModel(**settings)
        return self._filled(network, converted, len(weights), dtype, "UNet")

    def autoencoder(self, dtype: torch.dtype) -> tuple[AutoencoderKL, float]:
        """The VAE, and the number that its latents are multiplied by."""
        weights = self._weights(VAE)
        with self._fitting("VAE"), torch.device("meta"):
            settings = create_vae_diffusers_config_from_ldm(self._config, {})
            converted = convert_ldm_vae_checkpoint(weights, settings)
            network = AutoencoderKL(**settings)
        return self._filled(network, converted, len(weights), dtype, "VAE"), float(settings["scaling_factor"])

    def text_encoder(self, dtype: torch.dtype) -> CLIPTextModel:
        weights = {key[len(TEXT) :].removeprefix(TEXT_INNER): value for key, value in self._weights(TEXT).items()}
        with self._fitting("text encoder"), torch.device("meta"):
            network = CLIPTextModel(self._text_config())
        # transformers 5 left out the inner model that SD1's files name
        inner = getattr(network, TEXT_INNER.rstrip("."), network)
        self._filled(inner, weights, len(weights), dtype, "text encoder")
        inner.embeddings.position_ids = torch.arange(network.config.max_position_embeddings).unsqueeze(0)
        return network.eval()

    @property
    def _config(self) -> dict[str, Any]:
        return {"model": {"params": self.params}}

    def _text_config(self) -> CLIPTextConfig:
        file = self.clip_folder / "config.json" if self.clip_folder else None
        if file is None or not file.is_file():
            return CLIPTextConfig(**CLIP_L)
        config = json.loads(file.read_text(encoding="utf-8"))
        return CLIPTextConfig(**config.get("text_config", config))

    def _weights(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one network, by their names in the file."""
        names, weights = self._read(prefix)
        if not any(name.startswith(UNET) for name in names):
            raise self._error("has no UNet in it; choose a whole checkpoint")
        kind = _kind(weights, names)
        if kind != "SD1":
            raise self._error(f"is {kind}, but only SD1 checkpoints can be run without a WebUI; choose one of these")
        if any(name.endswith(_SCALES) for name in names):
            raise self._error(
                "is an FP8-scaled checkpoint, which cannot be run without a WebUI; choose the unscaled one"
            )
        wanted = {name: value for name, value in weights.items() if _NEEDED[prefix].match(name, len(prefix))}
        if not wanted:
            part = {VAE: "VAE", TEXT: "CLIP text encoder"}[prefix]
            raise self._error(f"has no {part} in it; choose a whole SD1 checkpoint")
        return wanted

    def _read(self, prefix: str) -> tuple[list[str], dict[str, Tensor]]:
        """The names of all tensors in the file, and the tensors whose name begins with `prefix`."""
        try:
            file = open_tensors(self.path)
            return list(file.shapes), file.read([name for name in file.shapes if name.startswith(prefix)])
        except Refused as error:
            raise self._error(f"{error.what}; {error.remedy}") from error
        except Exception as error:
            raise self._error(
                f"cannot be read ({cause(error)}); download it again or choose another checkpoint"
            ) from error

    def _filled(
        self, network: Any, weights: Mapping[str, Tensor | None], given: int, dtype: torch.dtype, part: str
    ) -> Any:
        """`network` with these weights; AmdmError where one is missing or left over. given: how many the file has."""
        wanted = network.state_dict()
        found = {name: value for name in wanted if (value := weights.get(name)) is not None}
        odd = next((name for name, value in found.items() if value.shape != wanted[name].shape), None)
        if odd or len(found) < given:
            raise self._unfit(part, f"the size of {odd}" if odd else f"{given - len(found)} of its tensors")
        holes = [name for name in wanted if name not in found]
        if holes:
            raise self._error(
                f"lacks {len(holes)} tensors that its {part} needs (first {holes[0]}); "
                "download it again or choose another checkpoint"
            )
        # copied, because a tensor may be a window into the file
        network.load_state_dict({name: value.to(dtype, copy=True) for name, value in found.items()}, assign=True)
        return network.requires_grad_(False).eval()

    @contextmanager
    def _fitting(self, part: str) -> Iterator[None]:
        """Say what cannot be made of the yaml and the weights."""
        try:
            yield
        except Exception as error:
            raise self._unfit(part, cause(error)) from error

    def _unfit(self, part: str, reason: str) -> AmdmError:
        if self.yaml.is_file():
            return self._error(f'has a {part} unlike what "{self.yaml.name}" describes ({reason}); correct that file')
        return self._error(
            f"has a {part} unlike Stable Diffusion 1's ({reason}); put the yaml that it came with beside it"
        )

    def _error(self, what: str) -> AmdmError:
        return AmdmError(f'{self.error_prefix}: "{self.title}" {what}.')


def _kind(weights: Mapping[str, Tensor], names: list[str]) -> str:
    """The checkpoint's family in a user's words; its input channels are seen where the UNet is among `weights`."""
    if any(name.startswith(f"{UNET}joint_blocks.") for name in names):
        return "SD3"
    if any(name.startswith("conditioner.") for name in names):
        return "SDXL"
    family = "SD2" if any(name.startswith("cond_stage_model.model.") for name in names) else "SD1"
    first = weights.get(f"{UNET}input_blocks.0.0.weight")
    channels = 4 if first is None else first.shape[1]
    kinds = {4: "", 9: " inpainting", 8: " InstructPix2Pix", 5: " depth", 7: " upscaling"}
    return family + kinds.get(channels, f" with {channels} input channels")


def _until_nothing(shares: Tensor) -> Tensor:
    """The picture's shares of the variance, so spread that next to nothing is left at the end (Lin et al., 2023)."""
    roots = shares.sqrt()
    spread = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return torch.cat([spread[:-1], spread.new_tensor([_TERMINAL_SHARE])])
