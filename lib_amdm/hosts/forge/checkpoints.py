"""Forge: load a further checkpoint with the parts of Forge's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from backend import attention, loader, memory_management
from backend.args import dynamic_args
from backend.modules.k_prediction import rescale_zero_terminal_snr_sigmas
from backend.nn.vae import IntegratedAutoencoderKL
from backend.operations import using_forge_operations
from modules_forge import main_entry

from ..common.elsewhere import Elsewhere
from ..common.engines import EngineLoader, additional_modules

CHROMAS_OWN = "distilled_guidance_layer.layers.0.in_layer.bias"
"""A weight that, among these families, only Chroma has."""


def variant() -> tuple[Any, ...]:
    return (*additional_modules(), str(dynamic_args.get("forge_unet_storage_dtype")), dynamic_args["embedding_dir"])


def _kind_of(guess: Any) -> type | None:
    if guess.huggingface_repo == "Chroma":
        return loader.Chroma
    return next((kind for kind in loader.possible_models if isinstance(guess, tuple(kind.matched_guesses))), None)


def _as_chroma(parts: dict[str, Any], guess: Any) -> None:
    """Make a Chroma of what is taken for a Flux, as the loader does if Forge's list of kinds has no Chroma."""
    chroma = getattr(loader, "GuessChroma", None)
    if chroma is not None and CHROMAS_OWN in (parts.get("transformer") or {}):
        guess.huggingface_repo = chroma.huggingface_repo
        guess.unet_config.update(chroma.unet_extra_config)
        for name in chroma.unet_remove_config:
            guess.unet_config.pop(name, None)
        parts["text_encoder"] = parts.pop("text_encoder_2", {})


def _vae_without_weights(folder: Path) -> torch.nn.Module:
    config = IntegratedAutoencoderKL.load_config(str(folder))
    with using_forge_operations(device=torch.device("meta"), dtype=memory_management.vae_dtype()):
        return IntegratedAutoencoderKL.from_config(config)


LOADER = EngineLoader(
    loader,
    Path(loader.dir_path) / "huggingface",
    unknown_kind=AttributeError,
    kind_of=_kind_of,
    is_flow_file=lambda guess, filename: guess.model_type.name in ("FLOW", "FLUX"),
    modules=main_entry,
    vae_without_weights=_vae_without_weights,
    rescaled=rescale_zero_terminal_snr_sigmas,
    elsewhere=Elsewhere(memory_management, attention.attention_function),
    corrected=_as_chroma,
)
