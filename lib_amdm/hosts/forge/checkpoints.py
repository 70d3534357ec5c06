"""Forge: loading a checkpoint beside the main one, with the parts of Forge's own loader."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from backend import loader, memory_management
from backend.args import dynamic_args
from backend.modules.k_prediction import rescale_zero_terminal_snr_sigmas
from backend.nn.vae import IntegratedAutoencoderKL
from backend.operations import using_forge_operations

from ...families import Family, inputs_of
from ..common.engines import EngineLoader, LoadedEngine, additional_modules, is_flow

FAMILIES = {
    "StableDiffusion": "SD1",
    "StableDiffusion2": "SD2",
    "StableDiffusionXL": "SDXL",
    "StableDiffusionXLRefiner": "SDXL",
}
"""Kinds of engines whose networks predict eps or v, in a user's words."""
CHROMAS_OWN = "distilled_guidance_layer.layers.0.in_layer.bias"
"""A weight that of these families only a Chroma has."""
OTHERS = {"StableDiffusion3": "SD3"}
"""Other kinds; those that are not here (Flux, Chroma) are called so already."""


def family(kind: type | None, guess: Any, is_flow: bool) -> Family:
    """The family of a kind of engine. guess: what the host takes a file for."""
    engine = kind.__name__ if kind else "of an unknown kind"
    if engine not in FAMILIES:
        return Family(OTHERS.get(engine, engine), latents=type(guess.latent_format).__name__, is_flow=is_flow)
    name, config = FAMILIES[engine], guess.unet_config
    if name == "SD2" and config.get("adm_in_channels"):
        return Family(name, "unCLIP")
    return Family(name, inputs_of(config["in_channels"]), is_flow=is_flow)


class ForgeLoader(EngineLoader):
    """`common.engines.EngineLoader` with Forge's rules."""

    host = loader
    configurations = Path(loader.dir_path) / "huggingface"
    unknown_kind = AttributeError

    def variant(self) -> tuple[Any, ...]:
        return (*additional_modules(), str(dynamic_args.get("forge_unet_storage_dtype")), dynamic_args["embedding_dir"])

    def kind_of(self, guess: Any) -> type | None:
        if guess.huggingface_repo == "Chroma":
            return loader.Chroma
        return next((each for each in loader.possible_models if isinstance(guess, tuple(each.matched_guesses))), None)

    def _split(self, filename: str, additional: list[str]) -> tuple[dict[str, Any], Any]:
        parts, guess = super()._split(filename, additional)
        chroma = getattr(loader, "GuessChroma", None)
        if chroma is not None and CHROMAS_OWN in (parts.get("transformer") or {}):
            # where Forge's list of kinds has no Chroma, its loader makes one of what is taken for a Flux
            guess.huggingface_repo = chroma.huggingface_repo
            guess.unet_config.update(chroma.unet_extra_config)
            for name in chroma.unet_remove_config:
                guess.unet_config.pop(name, None)
            parts["text_encoder"] = parts.pop("text_encoder_2", {})
        return parts, guess

    def family_of_file(self, kind: type | None, guess: Any, filename: str) -> Family:
        return family(kind, guess, guess.model_type.name in ("FLOW", "FLUX"))

    def family_of(self, engine: Any) -> Family:
        return family(type(engine), engine.model_config, is_flow(engine))

    def vae_without_weights(self, folder: Path) -> torch.nn.Module:
        config = IntegratedAutoencoderKL.load_config(str(folder))
        with using_forge_operations(device=torch.device("meta"), dtype=memory_management.vae_dtype()):
            return IntegratedAutoencoderKL.from_config(config)

    def loaded(self, engine: Any) -> LoadedEngine:
        return LoadedEngine(engine, rescale_zero_terminal_snr_sigmas)

    def globals_kept(self) -> AbstractContextManager[None]:
        return nullcontext()


LOADER = ForgeLoader()
