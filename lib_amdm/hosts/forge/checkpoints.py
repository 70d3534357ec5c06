"""Forge: loading a checkpoint beside the main one, with the parts of Forge's own loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from backend import loader, memory_management
from backend.args import dynamic_args
from backend.modules.k_prediction import rescale_zero_terminal_snr_sigmas
from backend.nn.vae import IntegratedAutoencoderKL
from backend.operations import using_forge_operations
from diffusers import DiffusionPipeline
from modules import sd_models, shared

from ...adapters.container import refuse_code
from ...comodels.cache import Loaded
from ...families import Family, inputs_of
from ..common import refusals

FAMILIES = {
    "StableDiffusion": "SD1",
    "StableDiffusion2": "SD2",
    "StableDiffusionXL": "SDXL",
    "StableDiffusionXLRefiner": "SDXL",
    "StableDiffusion3": "SD3",
}
"""Kinds of engines in a user's words; those of other models (Flux, Chroma) are called so already."""

UNUSED = ("logit_scale", "text_projection.weight")
"""Ends of names that some files leave out and that no prediction needs."""

WITHOUT_BIAS = ("to_q", "to_k", "to_v", "text_projection")
PREDICTIONS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "EDM": "edm"}


class LoadedEngine(torch.nn.Module):
    """The parts of an engine that are kept, as one module: its UNet, its text encoders, and the engine itself."""

    engine: Any
    unet: Any

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine
        self.unet = engine.forge_objects.unet.model
        self.texts = engine.forge_objects.clip.cond_stage_model
        self.schedule = self.unet.predictor.sigmas, self.unet.predictor.log_sigmas

    def prepare(self, p: Any, main: Any) -> None:
        """Make the engine ready for a pass beside the `main` one, as the host does with that."""
        engine = self.engine
        engine.forge_objects = engine.forge_objects_original.shallow_copy()
        sd_models.apply_token_merging(engine, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        predictor = self.unet.predictor
        # the logarithms too: computed again they differ in the last bit, and half a timestep is rounded the other way
        predictor.sigmas, predictor.log_sigmas = (kept.to(predictor.sigmas.device) for kept in self.schedule)
        # the option's noise schedule is the main model's; an eps model beside a v model keeps to its own
        own = predicts(engine) == "epsilon" and predicts(main) == "v_prediction"
        if (shared.opts.sd_noise_schedule == "Zero Terminal SNR" and not own) or engine.model_config.ztsnr:
            predictor.set_sigmas(rescale_zero_terminal_snr_sigmas(predictor.sigmas))


def additional_modules() -> list[str]:
    """The VAE and text encoders that the user has chosen for every checkpoint."""
    return list(sd_models.model_data.forge_loading_parameters.get("additional_modules") or [])


def variant() -> tuple[Any, ...]:
    """The options that decide, beside the file, how a checkpoint is loaded."""
    return (*additional_modules(), str(dynamic_args.get("forge_unet_storage_dtype")), dynamic_args["embedding_dir"])


def family(kind: type | None, unet_config: Mapping[str, Any], has_sigmas: bool = True) -> Family:
    """The family of a kind of engine. has_sigmas: see `Family`."""
    engine = kind.__name__ if kind else "of an unknown kind"
    name = FAMILIES.get(engine, engine)
    if engine not in FAMILIES or name == "SD3":
        return Family(name, has_sigmas=has_sigmas)
    if name == "SD2" and unet_config.get("adm_in_channels"):
        return Family(name, "unCLIP", has_sigmas)
    return Family(name, inputs_of(unet_config["in_channels"]), has_sigmas)


def predicts(engine: Any) -> str:
    """The network's prediction type: "epsilon", "v_prediction" or another."""
    return engine.forge_objects.unet.model.predictor.prediction_type


def family_of(engine: Any) -> Family:
    has_sigmas = predicts(engine) in ("epsilon", "v_prediction")
    return family(type(engine), engine.model_config.unet_config, has_sigmas)


@torch.inference_mode()
def load(info: Any, main: Any, slot: int) -> Loaded:
    """The checkpoint's engine without a VAE, in the dtypes the host has for a main one; AmdmError where it cannot be.

    The host's `forge_loader` loads the VAE too and fills what a file lacks with whatever was in memory, so its parts
    are called here in the same order: state dicts and their kind, components, prediction type, engine.
    """
    parts, guess = _read(info, slot)
    kind = next((each for each in loader.possible_models if isinstance(guess, tuple(each.matched_guesses))), None)
    own = family(kind, guess.unet_config)
    refusals.refuse_other_family(slot, info, own, main.sd_checkpoint_info, family_of(main))
    repository = Path(loader.dir_path) / "huggingface" / guess.huggingface_repo
    components: dict[str, Any] = {}
    # some modules draw numbers, from the generator that the host encodes pictures with
    with torch.random.fork_rng(devices=[]):
        for name, entry in DiffusionPipeline.load_config(str(repository)).items():
            if isinstance(entry, (list, tuple)) and len(entry) == 2:
                components[name] = _component(guess, name, entry, repository, parts.get(name), info, slot)
        scheduler = components["scheduler"].config
        scheduler.prediction_type = _prediction(info, guess) or scheduler.prediction_type
        assert kind is not None  # or it would be of another family than the main model
        engine = kind(estimated_config=guess, huggingface_components=components)
    for encoder in engine.forge_objects.clip.cond_stage_model.children():
        # as the host does when it first encodes; done now, co-models with equal embeddings can share them
        encoder.transformer.text_model.embeddings.to(torch.float32)
    engine.sd_checkpoint_info = info
    engine.filename = info.filename
    return Loaded(info.title, LoadedEngine(engine))


def _read(info: Any, slot: int) -> tuple[dict[str, dict[str, torch.Tensor]], Any]:
    """The file's tensors by component, and the kind of model that the host takes it for."""
    try:
        additional = additional_modules()
        for filename in (info.filename, *additional):
            refuse_code(filename)
        return loader.split_state_dict(info.filename, additional_state_dicts=additional)
    except AttributeError as error:
        raise refusals.unreadable(slot, info.name, "Forge does not know what kind of model it is") from error
    except Exception as error:
        raise refusals.unreadable(slot, info.name, refusals.first_line(error)) from error


def _component(
    guess: Any,
    name: str,
    entry: Sequence[str],
    repository: Path,
    weights: Mapping[str, torch.Tensor] | None,
    info: Any,
    slot: int,
) -> Any:
    if name == "vae":
        return _vae_without_weights(repository)
    if name == "unet" and not weights:
        raise refusals.without_unet(slot, info.name)
    made = loader.load_huggingface_component(guess, name, *entry, str(repository), weights)
    if isinstance(made, torch.nn.Module):
        weights = weights or {}
        missing = [key for key in _needed(made) if key not in weights and not key.endswith(UNUSED)]
        refusals.refuse_missing_tensors(slot, info.name, missing)
    return made


def _vae_without_weights(repository: Path) -> torch.nn.Module:
    """The engines are made with a VAE; a co-model's takes no memory."""
    config = IntegratedAutoencoderKL.load_config(str(repository / "vae"))
    with using_forge_operations(device=torch.device("meta"), dtype=memory_management.vae_dtype()):
        return IntegratedAutoencoderKL.from_config(config)


def _needed(model: torch.nn.Module) -> Iterator[str]:
    """The names of all weights of a model; the host's linear layers have none of those that were not loaded."""
    yield from (name for name, _ in model.named_parameters())
    for name, layer in model.named_modules():
        # those of packed weights (GGUF) do not say how wide they are
        if hasattr(layer, "in_features") or getattr(layer, "weight", layer) is None:
            yield f"{name}.weight"
            if not name.endswith(WITHOUT_BIAS):
                yield f"{name}.bias"


def _prediction(info: Any, guess: Any) -> str | None:
    """The UNet's prediction type: as the .yaml beside the file says, or as the host guesses."""
    beside = Path(info.filename).with_suffix(".yaml")
    params = {}
    if beside.is_file():
        params = (yaml.safe_load(beside.read_text(encoding="utf-8")) or {}).get("model", {}).get("params", {})
    scaling = params.get("denoiser_config", {}).get("params", {}).get("scaling_config", {}).get("target", "")
    if params.get("parameterization") == "v" or scaling.endswith(".VScaling"):
        return "v_prediction"
    return PREDICTIONS.get(guess.model_type.name)
