"""SD1 checkpoints for diffusers and transformers: files in ldm's layout, and their yamls."""

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
from lib_amdm.families import UNKNOWN, unet_family
from lib_amdm.files.checkpoint_family import Shapes, family_of
from lib_amdm.files.container import open_tensors
from lib_amdm.files.pickles import Refused

SUFFIXES = (".safetensors", ".ckpt", ".pt")
UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer."
TEXT_INNER = "text_model."
_LAST = UNET + "out.2.weight"
"""The UNet's last layer, whose outputs are a latent's channels."""
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

_PLAIN = yaml.safe_load(Path(__file__).with_name("v1-inference.yaml").read_text(encoding="utf-8"))
MODEL: dict[str, Any] = _PLAIN["model"]
SD1: dict[str, Any] = MODEL["params"]
"""Stable Diffusion 1's entries, for files without a yaml."""
CLIP_L: dict[str, Any] = _PLAIN["text_encoder"]
"""openai/clip-vit-large-patch14, the text encoder of Stable Diffusion 1."""


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint in ldm's layout. error_prefix: the beginning of an error's text, "AMDM" or "AMDM co-model 2"."""

    path: Path
    title: str
    error_prefix: str = "AMDM"

    @property
    def yaml(self) -> Path:
        return self.path.with_suffix(".yaml")

    @cached_property
    def params(self) -> Mapping[str, Any]:
        """The yaml's entries for the model, in ldm's layout; SD1's own values if there is no yaml."""
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
        """Return the share of the picture in the variance at each of the training's timesteps, float32 from float64."""
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
        """True if it predicts the velocity of a rectified flow, and has no noise schedule."""
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
        """Read the VAE, and the number that its latents are multiplied by."""
        weights = self._weights(VAE)
        with self._fitting("VAE"), torch.device("meta"):
            settings = create_vae_diffusers_config_from_ldm(self._config, {})
            converted = convert_ldm_vae_checkpoint(weights, settings)
            network = AutoencoderKL(**settings)
        return self._filled(network, converted, len(weights), dtype, "VAE"), float(settings["scaling_factor"])

    @property
    def offset(self) -> float:
        """The number that is taken from the VAE's latents before they are multiplied."""
        with self._fitting("VAE"):
            return float(self.params.get("shift_factor", 0.0))

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
        """Read the tensors of one network, by their names in the file."""
        shapes, weights = self._read(prefix)
        if not any(name.startswith(UNET) for name in shapes):
            raise self._error("has no UNet in it; choose a whole checkpoint")
        family = family_of(shapes)
        channels = shapes.get(_LAST, (0,))[0]
        if family not in (unet_family("SD1"), unet_family("SD1", channels, outputs=channels)):
            kind = family or UNKNOWN
            raise self._error(f"is {kind}, but only SD1 checkpoints can be run without a WebUI; choose one of these")
        if any(name.endswith(_SCALES) for name in shapes):
            raise self._error(
                "is an FP8-scaled checkpoint, which cannot be run without a WebUI; choose the unscaled one"
            )
        wanted = {name: value for name, value in weights.items() if _NEEDED[prefix].match(name, len(prefix))}
        if not wanted:
            part = {VAE: "VAE", TEXT: "CLIP text encoder"}[prefix]
            raise self._error(f"has no {part} in it; choose a whole SD1 checkpoint")
        return wanted

    def _read(self, prefix: str) -> tuple[Shapes, dict[str, Tensor]]:
        """Return the shapes of all tensors in the file, and the tensors with names that begin with `prefix`."""
        try:
            file = open_tensors(self.path)
            return file.shapes, file.read([name for name in file.shapes if name.startswith(prefix)])
        except Refused as error:
            raise self._error(f"{error.what}; {error.remedy}") from error
        except Exception as error:
            raise self._error(
                f"cannot be read ({cause(error)}); download it again or choose another checkpoint"
            ) from error

    def _filled(
        self, network: Any, weights: Mapping[str, Tensor | None], count: int, dtype: torch.dtype, part: str
    ) -> Any:
        """Fill a network with weights; AmdmError if one is missing or left over. count: how many the file has."""
        wanted = network.state_dict()
        fitting = {name: value for name in wanted if (value := weights.get(name)) is not None}
        odd = next((name for name, value in fitting.items() if value.shape != wanted[name].shape), None)
        if odd or len(fitting) < count:
            raise self._unfit(part, f"the size of {odd}" if odd else f"{count - len(fitting)} of its tensors")
        holes = [name for name in wanted if name not in fitting]
        if holes:
            raise self._error(
                f"lacks {len(holes)} tensors that its {part} needs (first {holes[0]}); "
                "download it again or choose another checkpoint"
            )
        # copied, because a tensor may be a window into the file
        network.load_state_dict({name: value.to(dtype, copy=True) for name, value in fitting.items()}, assign=True)
        return network.requires_grad_(False).eval()

    @contextmanager
    def _fitting(self, part: str) -> Iterator[None]:
        """Make a context in which an error means that the yaml and the weights do not fit."""
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


def _until_nothing(shares: Tensor) -> Tensor:
    """Spread the picture's shares of the variance so that next to nothing is left at the end (Lin et al., 2023)."""
    roots = shares.sqrt()
    spread = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return torch.cat([spread[:-1], spread.new_tensor([_TERMINAL_SHARE])])
