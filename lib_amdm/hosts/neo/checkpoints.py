"""Forge Neo: load a further checkpoint with the parts of Forge Neo's own loader."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from backend import attention, loader, memory_management
from backend.args import dynamic_args
from backend.modules.k_prediction import rescale_zero_terminal_snr_sigmas
from backend.nn.vae import IntegratedAutoencoderKL
from backend.operations import using_forge_operations
from modules_forge import main_entry
from modules_forge.utils import apply_circular_forge

from ..common.elsewhere import Elsewhere
from ..common.engines import EngineLoader, LoadedEngine, additional_modules
from ..webui_types import Engine, Processing

WAN = "backend.diffusion_engine.wan"
"""A module of the host's, if it has Wan."""
ANIMAS_OWN = "llm_adapter."
"""The part of Anima's text encoder that is trained with its network, and is in the same file."""


def variant() -> tuple[Any, ...]:
    return (*additional_modules(), str(dynamic_args.forge_unet_storage_dtype), str(dynamic_args.embedding_dir))


def prepare(loaded: LoadedEngine, p: Processing, main: Engine) -> None:
    """Prepare an engine for a pass, as Forge Neo prepares its main one."""
    loaded.prepare(p, main)
    apply_circular_forge(loaded.engine, p.tiling)


def _kind_of(guess: Any) -> type | None:
    # a guess's class is often a subclass of another one with a different engine
    return next((kind for kind in loader.possible_models if type(guess) in kind.matched_guesses), None)


def _is_flow_file(guess: Any, filename: str) -> bool:
    return guess.model_type.name not in ("EPS", "V_PREDICTION") or _is_rectified(guess, filename)


def _text_parts(weights: Mapping[str, torch.Tensor]) -> Mapping[str, torch.nn.Module]:
    adapter = {key.removeprefix(ANIMAS_OWN): value for key, value in weights.items() if key.startswith(ANIMAS_OWN)}
    if not adapter:
        return {}
    from backend.nn.anima import LLMAdapter

    blocks = {key.split(".")[1] for key in adapter if key.startswith("blocks.")}
    dtype = memory_management.text_encoder_dtype()
    with using_forge_operations(device=memory_management.cpu, dtype=dtype, manual_cast_enabled=True):
        made = LLMAdapter(num_layers=len(blocks))
    made.load_state_dict(adapter)
    return {ANIMAS_OWN.rstrip("."): made}


def _note_rectified(guess: Any, filename: str) -> None:
    if _is_rectified(guess, filename):
        guess.sampling_settings["RF"] = True


def _vae_without_weights(folder: Path) -> torch.nn.Module:
    config = IntegratedAutoencoderKL.load_config(str(folder))
    with using_forge_operations(device=torch.device("meta"), dtype=memory_management.vae_dtype(), bnb_dtype="vae"):
        return IntegratedAutoencoderKL.from_config(config)


def _is_rectified(guess: Any, filename: str) -> bool:
    """Return True for a rectified SDXL, which the host, too, recognises only by its path."""
    return "xl" in guess.huggingface_repo and "rectified" in filename.lower()


@contextmanager
def globals_kept() -> Iterator[None]:
    """Restore the host's notes on its main model and prompt, which loading and encoding overwrite."""
    notes = {name: value for name, value in vars(dynamic_args).items() if _is_note(name, value)}
    contents = {name: value.copy() for name, value in notes.items() if isinstance(value, (list, dict))}
    # a further Wan takes the shift that the main one left for its refiner
    wan: Any = sys.modules.get(WAN)
    shift = getattr(wan, "refiner_shift", None)
    try:
        yield
    finally:
        if wan is not None:
            wan.refiner_shift = shift
        for name in [name for name, value in vars(dynamic_args).items() if _is_note(name, value)]:
            if name not in notes:
                delattr(dynamic_args, name)
        for name, value in notes.items():
            # the same objects with the same contents: the host clears them in place, and others may refer to them
            if isinstance(value, list):
                value[:] = contents[name]
            elif isinstance(value, dict):
                value.clear()
                value.update(contents[name])
            setattr(dynamic_args, name, value)


def _is_note(name: str, value: Any) -> bool:
    return not name.startswith("__") and not isinstance(value, (classmethod, staticmethod))


LOADER = EngineLoader(
    loader,
    Path(loader.HF),
    unknown_kind=ModuleNotFoundError,
    kind_of=_kind_of,
    is_flow_file=_is_flow_file,
    modules=main_entry,
    vae_without_weights=_vae_without_weights,
    rescaled=rescale_zero_terminal_snr_sigmas,
    elsewhere=Elsewhere(memory_management, attention.attention_function),
    globals_kept=globals_kept,
    chosen=_note_rectified,
    text_parts=_text_parts,
    beside_texts=(ANIMAS_OWN,),
)
