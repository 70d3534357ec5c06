"""Load a further checkpoint on Forge and Forge Neo, where a model is an engine made of components.

The hosts' own `forge_loader` always loads the VAE, fills missing weights with arbitrary memory, and on Forge Neo
sets globals that the running main model reads. So its parts are called here in the same order: state dicts and their
kind, components, prediction type, engine.

A file of a large model rarely has its text encoder; one of the main model's kind then uses the main model's. A model
of another latent space has its own, and its VAE, in its file or in those that the user names for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
import yaml
from modules import sd_models, shared

from ...comodels.cache import Loaded
from ...errors import AmdmError
from ...families import TEXT_WIDTHS, UNKNOWN, Family, flow_family, unet_family, wan_family
from ...files.checkpoint_family import family_in
from ...files.container import refuse_code
from ..webui_types import CheckpointInfo, Engine, Processing
from . import refusals
from .elsewhere import Elsewhere
from .engine_texts import NoTextEncoder

UNUSED = ("logit_scale", "text_projection.weight")
"""Ends of the names of weights that some files lack and no prediction needs."""

ENGINES = {
    "StableDiffusion": "SD1",
    "StableDiffusion2": "SD2",
    "StableDiffusion3": "SD3",
    "StableDiffusionXL": "SDXL",
    "StableDiffusionXLRefiner": "SDXL",
    "ErnieImage": "Ernie-Image",
    "Flux2": "Flux.2",
    "Krea2": "Krea 2",
    "Lumina2": "Lumina 2",
    "QwenImage": "Qwen-Image",
    "QwenImage21": "Qwen-Image 2.1",
    "ZImage": "Z-Image",
}
"""The families of the hosts' classes of engines; any other class (Flux, Chroma, Anima) has its family's name."""
NETWORKS = ("unet", "transformer")
TEXT_ENCODER = "text_encoder"
VAE = "vae"
"""The hosts' names of components."""
WITH_BIASES = ("UNet", "CLIP")
"""The names of the linear layers without biases, by class of models."""
WITHOUT_BIAS = ("to_q", "to_k", "to_v", "text_projection")
UNKNOWN_KIND = "the WebUI does not know what kind of model it is"
PREDICTIONS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "EDM": "edm"}


class HostLoader(Protocol):
    """The subset of the host's loader used here."""

    possible_models: Sequence[Any]

    def split_state_dict(self, path: str, additional_state_dicts: list[str]) -> tuple[dict[str, Any], Any]: ...

    def load_huggingface_component(
        self, guess: Any, name: str, library: str, kind: str, repository: str, weights: Any
    ) -> Any: ...


class LoadedEngine(torch.nn.Module):
    """The parts of an engine that are kept, as one module: its UNet, its text encoders, and the engine itself."""

    engine: Engine
    unet: Any

    def __init__(self, engine: Engine, rescaled: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Keep an engine's parts. rescaled: the host's own rule for noise levels that end in zero SNR."""
        super().__init__()
        self.engine, self.rescaled = engine, rescaled
        self.unet = engine.forge_objects.unet.model
        self.texts = engine.forge_objects.clip.cond_stage_model
        vae = engine.forge_objects.vae.first_stage_model
        # one without weights takes no memory, and has no numbers to share
        self.vae = None if any(weight.is_meta for weight in vae.parameters()) else vae
        predictor = self.unet.predictor
        self.schedule = None if is_flow(engine) else (predictor.sigmas, predictor.log_sigmas)

    def prepare(self, p: Processing, main: Engine) -> None:
        """Prepare the engine for a pass with the `main` one, as the host prepares that one."""
        engine = self.engine
        engine.forge_objects = engine.forge_objects_original.shallow_copy()
        sd_models.apply_token_merging(engine, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        if self.schedule is None:
            # flow models take the sampler's schedule, which is the main model's
            return
        predictor = self.unet.predictor
        # copy the logarithms too: recomputed they differ in the last bit, and half a timestep is rounded the other way
        predictor.sigmas, predictor.log_sigmas = (
            values.to(predictor.sigmas.device, non_blocking=True) for values in self.schedule
        )
        # the option's noise schedule is for the main model; an eps model with a v model keeps its own
        keeps_schedule = predicts(engine) == "epsilon" and predicts(main) == "v_prediction"
        if (shared.opts.sd_noise_schedule == "Zero Terminal SNR" and not keeps_schedule) or engine.model_config.ztsnr:
            predictor.set_sigmas(self.rescaled(predictor.sigmas))


def additional_modules() -> list[str]:
    """Return the VAE and text encoders that the user has chosen for every checkpoint."""
    return list(sd_models.model_data.forge_loading_parameters.get("additional_modules") or [])


def predicts(engine: Engine) -> str:
    """Return the network's prediction type: "epsilon", "v_prediction" or another."""
    prediction: str = engine.forge_objects.unet.model.predictor.prediction_type
    return prediction


def is_flow(engine: Engine) -> bool:
    """Return True for a flow model."""
    return predicts(engine) == "const"


def family_of(engine: Engine) -> Family:
    """Return the family of an engine's model."""
    return _family(type(engine), engine.model_config, is_flow(engine))


def _family(kind: type | None, guess: Any, is_flow: bool) -> Family:
    """Return the family of a class of engines. guess: the host's guess of a file's kind."""
    engine = kind.__name__ if kind else UNKNOWN
    name = ENGINES.get(engine, engine)
    if name in TEXT_WIDTHS.values():
        config = guess.unet_config
        return unet_family(name, config["in_channels"], bool(config.get("adm_in_channels")), is_flow)
    if name == "Wan":
        return wan_family(guess.unet_config["in_dim"], guess.unet_config["out_dim"])
    return flow_family(name, type(guess.latent_format).__name__)._replace(is_flow=is_flow)


class HostModules(Protocol):
    """The host's list of VAEs and text encoders."""

    module_list: Mapping[str, object]
    """The files by their names."""

    def refresh_models(self) -> object: ...


@dataclass(frozen=True)
class EngineLoader:
    """A host's way from a file to an engine."""

    host: HostLoader
    configurations: Path
    """The folder of the host's configurations, one for each kind of model."""
    unknown_kind: type[Exception]
    """The host's error for a file of an unknown kind."""
    kind_of: Callable[[Any], type | None]
    """Returns the engine's class for the host's guess of a file's kind."""
    is_flow_file: Callable[[Any, str], bool]
    """is_flow_file(guess, filename)"""
    modules: HostModules
    vae_without_weights: Callable[[Path], torch.nn.Module]
    """Returns the VAE of a folder: engines are made with one, and a co-model's takes no memory."""
    rescaled: Callable[[torch.Tensor], torch.Tensor]
    """The host's rule for noise levels that end in zero SNR."""
    elsewhere: Elsewhere
    globals_kept: Callable[[], AbstractContextManager[None]] = nullcontext
    """A context that restores the main model's values of the globals that the host's loader sets."""
    corrected: Callable[[dict[str, Any], Any], None] = lambda parts, guess: None
    """corrected(parts, guess) corrects the host's guess of a file's kind, and its weights by component."""
    chosen: Callable[[Any, str], None] = lambda guess, filename: None
    """chosen(guess, filename) adds to the guess what the host knows only from the file's name."""
    text_parts: Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.nn.Module]] = lambda weights: {}
    """The parts of a text encoder, by their names in it, that a checkpoint can have without the rest."""
    beside_texts: tuple[str, ...] = ()
    """Beginnings of the names of these parts' weights."""

    @torch.inference_mode()
    def load(
        self, info: CheckpointInfo, main: Engine, slot: int, modules: Sequence[str], device: torch.device | None
    ) -> Loaded:
        """Load the checkpoint's engine in the dtypes of the host's main one; AmdmError if it cannot be.

        modules: the names of the files of its VAE and text encoders, in the host's list.
        device: the UNet's, if it is another than the main model's.

        Its VAE has weights only if the main model has another latent space.
        """
        with self.globals_kept():
            engine = self._engine(info, main, slot, modules)
        for encoder in engine.forge_objects.clip.cond_stage_model.children():
            text_model = getattr(getattr(encoder, "transformer", None), "text_model", None)
            if text_model is not None:
                # as the host does at the first encoding; done now so that co-models with equal embeddings share them
                text_model.embeddings.to(torch.float32)
        if device is not None:
            self.elsewhere.put(engine.forge_objects.unet, device, slot, info.name)
        engine.sd_checkpoint_info = info
        engine.filename = info.filename
        return Loaded(info.title, LoadedEngine(engine, self.rescaled))

    def _engine(self, info: CheckpointInfo, main: Engine, slot: int, modules: Sequence[str]) -> Engine:
        parts, guess, borrows = self._read(info, main, slot, modules)
        kind = self.kind_of(guess)
        family = _family(kind, guess, self.is_flow_file(guess, info.filename))
        refusals.refuse_other_family(slot, info, family, main.sd_checkpoint_info, family_of(main))
        crosses = family.crosses(family_of(main))
        self.chosen(guess, info.filename)
        repository = self.configurations / guess.huggingface_repo
        # imported here: it is slow, and only pictures with co-models need it
        from diffusers import DiffusionPipeline

        components: dict[str, Any] = {}
        # some modules draw random numbers from the generator that the host encodes pictures with
        with torch.random.fork_rng(devices=[]):
            for name, entry in DiffusionPipeline.load_config(str(repository)).items():
                if not isinstance(entry, (list, tuple)) or len(entry) != 2:
                    continue
                if borrows and name.startswith(TEXT_ENCODER):
                    components[name] = NoTextEncoder(self.text_parts(parts.get(name) or {}))
                elif name == VAE and not crosses:
                    components[name] = self.vae_without_weights(repository / name)
                else:
                    components[name] = self._component(guess, name, entry, repository, parts.get(name), info, slot)
            scheduler: Any = getattr(components.get("scheduler"), "config", ())
            if "prediction_type" in scheduler:
                scheduler.prediction_type = _prediction(info, guess) or scheduler.prediction_type
            if kind is None:
                raise refusals.unreadable(slot, info.name, UNKNOWN_KIND)
            return kind(estimated_config=guess, huggingface_components=components)

    def _read(
        self, info: CheckpointInfo, main: Engine, slot: int, modules: Sequence[str]
    ) -> tuple[dict[str, Any], Any, bool]:
        """Return the file's tensors by component, the host's guess of its kind, and True if it borrows a text encoder.

        The user's choice of text encoders is the main model's, and applies to a file as it does to a main model; but a
        model of another latent space uses the parts in its own file first.
        """
        named = [self._module_file(name, slot) for name in modules]
        try:
            additional = additional_modules()
            for filename in (info.filename, *additional, *named):
                refuse_code(filename)
            if named:
                return (*self._split(info.filename, named), False)
            if not additional:
                parts, guess = self._split(info.filename, [])
                return parts, guess, not self._has_texts(parts) and self.kind_of(guess) is type(main)
            family = family_in(Path(info.filename))
            if family is not None and family.crosses(family_of(main)):
                parts, guess = self._without_texts(info.filename, additional)
                if not parts.get(VAE) or not self._has_texts(parts):
                    parts, guess = self._split(info.filename, additional)
                return parts, guess, False
            if _may_bring_texts(info.filename):
                return (*self._split(info.filename, additional), False)
            parts, guess = self._without_texts(info.filename, additional)
            if self.kind_of(guess) is type(main):
                return parts, guess, True
            return (*self._split(info.filename, additional), False)
        except Exception as error:
            if _found_no_texts(error):
                raise refusals.without_text_encoder(slot, info.name) from error
            if isinstance(error, self.unknown_kind):
                raise refusals.unreadable(slot, info.name, UNKNOWN_KIND) from error
            raise refusals.unreadable(slot, info.name, refusals.reason(error)) from error

    def _has_texts(self, parts: Mapping[str, Any]) -> bool:
        """Return True if a file's tensors by component include a whole text encoder's."""
        return any(self._is_whole(weights) for name, weights in parts.items() if name.startswith(TEXT_ENCODER))

    def _is_whole(self, weights: Mapping[str, torch.Tensor] | None) -> bool:
        """Return True if a text encoder's weights include more than the parts that a checkpoint has without it."""
        return any(not key.startswith(self.beside_texts) for key in weights or ())

    def _module_file(self, name: str, slot: int) -> str:
        """Return the file of a name in the host's list of VAEs and text encoders; AmdmError if it is not there."""
        self.modules.refresh_models()
        file = self.modules.module_list.get(name)
        if file is None:
            raise AmdmError(
                f'AMDM co-model {slot}: "{name}" is not in the WebUI\'s list "VAE / Text Encoder"; choose a name from '
                "it."
            )
        return str(file)

    def _without_texts(self, filename: str, additional: list[str]) -> tuple[dict[str, Any], Any]:
        """Split a file, if possible without reading the user's text encoders, the larger part of most models."""
        try:
            return self._split(filename, [])
        except (AttributeError, KeyError, TypeError):
            # for some kinds the hosts look for the text encoder's weights (Chroma)
            return self._split(filename, additional)

    def _split(self, filename: str, additional: list[str]) -> tuple[dict[str, Any], Any]:
        parts, guess = self.host.split_state_dict(filename, additional_state_dicts=additional)
        self.corrected(parts, guess)
        return parts, guess

    def _component(
        self,
        guess: Any,
        name: str,
        entry: Sequence[str],
        repository: Path,
        weights: Mapping[str, torch.Tensor] | None,
        info: CheckpointInfo,
        slot: int,
    ) -> Any:
        if name == VAE and not weights:
            raise refusals.without_autoencoder(slot, info.name, 'name it under the co-model\'s "VAE / text encoder"')
        if name in NETWORKS and not weights:
            raise refusals.without_unet(slot, info.name)
        if name.startswith(TEXT_ENCODER) and not self._is_whole(weights):
            raise refusals.without_text_encoder(slot, info.name)
        # the host may empty its argument
        names = set(weights or {})
        library, class_name = entry
        made = self.host.load_huggingface_component(guess, name, library, class_name, str(repository), weights)
        if isinstance(made, torch.nn.Module) and name != VAE:
            missing = _missing(made, names, class_name)
            refusals.refuse_missing_tensors(slot, info.name, missing)
        return made


def _found_no_texts(error: Exception) -> bool:
    """Return True for the error that ends the host's search for a text encoder in vain (Chroma)."""
    # the host then reads None for the encoder's names
    return isinstance(error, AttributeError) and error.obj is None and error.name == "items"


def _may_bring_texts(filename: str) -> bool:
    """Return True unless the file is known to have no text encoder."""
    suffix = Path(filename).suffix.lower()
    if suffix != ".safetensors":
        return suffix != ".gguf"
    with safetensors.safe_open(filename, "pt") as file:
        return any(name.startswith(refusals.TEXTS) for name in file.keys())  # noqa: SIM118


def _missing(model: torch.nn.Module, names: set[str], class_name: str) -> list[str]:
    """Return the names of weights that a file lacks."""
    needed = [key for key in _needed(model, class_name.startswith(WITH_BIASES)) if not key.endswith(UNUSED)]
    # the name of some norms' weights in Flux's files, but not in the hosts
    known = names | {f"{key.removesuffix('.scale')}.weight" for key in names if key.endswith(".scale")}
    missing = [key for key in needed if key not in known]
    if not class_name.startswith(WITH_BIASES) and len(names) >= len(needed):
        # the hosts accept several sets of names for the weights of large text encoders
        return []
    return missing


def _needed(model: torch.nn.Module, with_biases: bool) -> Iterator[str]:
    """Return the names of all weights of a model.

    A host's own linear layers may have no parameters for weights that were not loaded; then the names include all
    layers' biases, if the model's layers have any.
    """
    yield from (name for name, _ in model.named_parameters())
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear" and not isinstance(layer, torch.nn.Linear):
            yield f"{name}.weight"
            if with_biases and not name.endswith(WITHOUT_BIAS):
                yield f"{name}.bias"


def _prediction(info: CheckpointInfo, guess: Any) -> str | None:
    """Return the UNet's prediction type, from the .yaml next to the file or from the host's guess."""
    beside = Path(info.filename).with_suffix(".yaml")
    params = {}
    if beside.is_file():
        params = (yaml.safe_load(beside.read_text(encoding="utf-8")) or {}).get("model", {}).get("params", {})
    scaling = params.get("denoiser_config", {}).get("params", {}).get("scaling_config", {}).get("target", "")
    named = params.get("parameterization") or scaling
    if named == "v" or named.endswith(".VScaling"):
        return "v_prediction"
    return PREDICTIONS.get(guess.model_type.name)
