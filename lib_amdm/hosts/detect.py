"""Detect the WebUI by the functions that it has, never by its version."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol import Host

_SCRIPTS = "modules.scripts"
_HOOK = {_SCRIPTS: ("Script.process_before_every_sampling",)}
"""Without this hook the panel would show up and have no effect."""

CAN: dict[str, dict[str, tuple[str, ...]]] = {
    "neo": {
        "modules.sd_models": ("forge_model_reload",),
        "backend.args": ("dynamic_args.last_extra_generation_params",),
        "backend.loader": ("HF", "split_state_dict", "load_huggingface_component"),
        "backend.sampling.sampling_function": ("sampling_function",),
        **_HOOK,
    },
    "forge": {
        "modules.sd_models": ("forge_model_reload",),
        "backend.loader": ("dir_path", "split_state_dict", "load_huggingface_component"),
        "backend.sampling.sampling_function": ("sampling_function",),
        **_HOOK,
    },
    "reforge": {
        "modules_forge.forge_loader": ("load_model_for_a1111",),
        "ldm_patched.modules.samplers": ("sampling_function",),
        **_HOOK,
    },
    "a1111": {
        "modules.sd_models": ("load_model_weights", "get_checkpoint_state_dict"),
        "modules.sd_hijack": ("StableDiffusionModelHijack",),
        "modules.lowvram": ("is_enabled",),
        **_HOOK,
    },
}
"""The names that each host's files need in a WebUI; the first host with all of them is chosen.

The hook is the last: if only it is missing, the WebUI is too old.
"""


NEEDS: dict[str, dict[str, tuple[str, ...]]] = {
    "neo": {
        "modules.sd_models": ("model_data.forge_loading_parameters",),
        "modules.sd_samplers_common": ("ORIGINAL_CHECKPOINT",),
        "modules_forge.main_entry": ("module_list", "refresh_models"),
        "modules_forge.utils": ("apply_circular_forge",),
        "backend.args": (
            "args",
            "dynamic_args.embedding_dir",
            "dynamic_args.forge_unet_storage_dtype",
            "dynamic_args.ref_latents",
        ),
        "backend.attention": ("attention_function",),
        "backend.float": ("stochastic_rounding",),
        "backend.loader": ("possible_models",),
        "backend.memory_management": (
            *("VAE_ALWAYS_TILED", "current_loaded_models", "get_torch_device", "should_use_fp16"),
            *("load_model_gpu", "load_models_gpu", "free_memory", "cleanup_models", "soft_empty_cache"),
            *("cpu", "text_encoder_device", "text_encoder_dtype", "vae_dtype"),
        ),
        "backend.modules.k_prediction": ("rescale_zero_terminal_snr_sigmas",),
        "backend.nn.vae": ("IntegratedAutoencoderKL",),
        "backend.operations": ("using_forge_operations",),
        "backend.patcher.lora": (
            *("load_lora", "logger", "merge_lora_to_weight", "string_to_seed"),
            *("model_lora_keys_unet", "model_lora_keys_clip"),
        ),
        "backend.state_dict": ("state_dict_prefix_replace",),
        "backend.utils": ("load_torch_file",),
    },
}
"""Further names that a host's files need for any picture; without one the host refuses the WebUI by this name.

The WebUI itself has loaded these modules by the time that it loads extensions.
"""


class UnknownHostError(Exception):
    """The reason that AMDM cannot be used in this WebUI, in one line for its page."""


def host() -> Host:
    """Return the host for the present WebUI; UnknownHostError if there is none."""
    for name, needs in CAN.items():
        lacking = next((module for module, names in needs.items() if not _offers(module, names)), None)
        if lacking == _SCRIPTS:
            raise UnknownHostError(
                "AMDM cannot be used here: this WebUI is too old for it, and never calls it while a picture is drawn; "
                "update it (AUTOMATIC1111 to 1.10 or newer)."
            )
        if lacking is None:
            missing = next(_missing(NEEDS.get(name, {})), None)
            if missing:
                raise UnknownHostError(lacks(name, ImportError(missing)))
            try:
                supported: Host = importlib.import_module(f"{__package__}.{name}").HOST
                return supported
            except ImportError as error:
                raise UnknownHostError(lacks(name, error)) from error
    raise UnknownHostError(
        "AMDM cannot be used here: this WebUI is not supported, or is too old; the README names those that are."
    )


def lacks(name: str, error: ImportError) -> str:
    """Say that a WebUI lacks something that this host's files import."""
    what = str(error).partition(" (")[0]  # a path follows
    return (
        f"AMDM cannot be used here: this WebUI is like {name}, but lacks something ({what}); the README says what AMDM "
        "was tried with."
    )


def _missing(needs: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield those of these names that the WebUI does not have, with their modules."""
    return (f"{module}.{name}" for module, names in needs.items() for name in names if not _offers(module, (name,)))


def _offers(module: str, names: tuple[str, ...]) -> bool:
    try:
        # a folder of that name may belong to something else, so it is imported only if it has the right parts
        if find_spec(module) is None:
            return False
        imported = importlib.import_module(module)
    except ImportError:
        return False
    return all(_has(imported, name) for name in names)


def _has(module: Any, name: str) -> bool:
    """Return True if a module has a name, which may be dotted: `Class.method`."""
    try:
        attrgetter(name)(module)
    except AttributeError:
        return False
    return True
