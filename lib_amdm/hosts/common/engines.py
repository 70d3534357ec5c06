"""Loading a checkpoint beside the main one where a model is an engine, made of components: Forge and Forge Neo.

The hosts' own `forge_loader` loads the VAE too, fills what a file lacks with whatever was in memory, and on Forge Neo
sets globals that the running main model reads. So its parts are called here in the same order: state dicts and their
kind, components, prediction type, engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from modules import sd_models, shared

from ...adapters.container import refuse_code
from ...comodels.cache import Loaded
from ...families import Family
from . import refusals

UNUSED = ("logit_scale", "text_projection.weight")
"""Ends of names that some files leave out and that no prediction needs."""

WITHOUT_BIAS = ("to_q", "to_k", "to_v", "text_projection")
PREDICTIONS = {"EPS": "epsilon", "V_PREDICTION": "v_prediction", "EDM": "edm"}


class HostLoader(Protocol):
    """The host's module of this job, as far as it is asked."""

    possible_models: Sequence[Any]

    def split_state_dict(self, path: str, additional_state_dicts: list[str]) -> tuple[dict[str, Any], Any]: ...

    def load_huggingface_component(
        self, guess: Any, name: str, library: str, kind: str, repository: str, weights: Any
    ) -> Any: ...


class LoadedEngine(torch.nn.Module):
    """The parts of an engine that are kept, as one module: its UNet, its text encoders, and the engine itself."""

    engine: Any
    unet: Any

    def __init__(self, engine: Any, rescaled: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """rescaled: the host's own rule for noise levels that end in zero SNR."""
        super().__init__()
        self.engine, self.rescaled = engine, rescaled
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
            predictor.set_sigmas(self.rescaled(predictor.sigmas))


def additional_modules() -> list[str]:
    """The VAE and text encoders that the user has chosen for every checkpoint."""
    return list(sd_models.model_data.forge_loading_parameters.get("additional_modules") or [])


def predicts(engine: Any) -> str:
    """The network's prediction type: "epsilon", "v_prediction" or another."""
    prediction: str = engine.forge_objects.unet.model.predictor.prediction_type
    return prediction


class EngineLoader(ABC):
    """A host's way from a file to an engine."""

    host: HostLoader
    configurations: Path
    """The folder of the host's configurations, one for each kind of model."""
    unknown_kind: type[Exception]
    """The host's error for a file of a kind that it does not know."""

    @abstractmethod
    def variant(self) -> tuple[Any, ...]:
        """The options that decide, beside the file, how a checkpoint is loaded."""

    @abstractmethod
    def kind_of(self, guess: Any) -> type | None:
        """The engine's class for what the host takes a file for."""

    @abstractmethod
    def family_of_file(self, kind: type | None, guess: Any, filename: str) -> Family: ...

    @abstractmethod
    def family_of(self, engine: Any) -> Family: ...

    @abstractmethod
    def vae_without_weights(self, folder: Path) -> torch.nn.Module:
        """The engines are made with a VAE; a co-model's takes no memory."""

    @abstractmethod
    def loaded(self, engine: Any) -> LoadedEngine: ...

    @abstractmethod
    def globals_kept(self) -> AbstractContextManager[None]:
        """A context after which the globals that the host's loader sets are those of the main model."""

    @torch.inference_mode()
    def load(self, info: Any, main: Any, slot: int) -> Loaded:
        """The checkpoint's engine without a VAE, in the dtypes the host has for a main one; AmdmError where it cannot
        be."""
        with self.globals_kept():
            engine = self._engine(info, main, slot)
        for encoder in engine.forge_objects.clip.cond_stage_model.children():
            # as the host does when it first encodes; done now, co-models with equal embeddings can share them
            encoder.transformer.text_model.embeddings.to(torch.float32)
        engine.sd_checkpoint_info = info
        engine.filename = info.filename
        return Loaded(info.title, self.loaded(engine))

    def _engine(self, info: Any, main: Any, slot: int) -> Any:
        parts, guess = self._read(info, slot)
        kind = self.kind_of(guess)
        own = self.family_of_file(kind, guess, info.filename)
        refusals.refuse_other_family(slot, info, own, main.sd_checkpoint_info, self.family_of(main))
        repository = self.configurations / guess.huggingface_repo
        # here, for it is slow to import, and no picture without co-models needs it
        from diffusers import DiffusionPipeline

        components: dict[str, Any] = {}
        # some modules draw numbers, from the generator that the host encodes pictures with
        with torch.random.fork_rng(devices=[]):
            for name, entry in DiffusionPipeline.load_config(str(repository)).items():
                if isinstance(entry, (list, tuple)) and len(entry) == 2:
                    components[name] = self._component(guess, name, entry, repository, parts.get(name), info, slot)
            scheduler = components["scheduler"].config
            scheduler.prediction_type = _prediction(info, guess) or scheduler.prediction_type
            assert kind is not None  # or it would be of another family than the main model
            return kind(estimated_config=guess, huggingface_components=components)

    def _read(self, info: Any, slot: int) -> tuple[dict[str, Any], Any]:
        """The file's tensors by component, and the kind of model that the host takes it for."""
        try:
            additional = additional_modules()
            for filename in (info.filename, *additional):
                refuse_code(filename)
            return self.host.split_state_dict(info.filename, additional_state_dicts=additional)
        except self.unknown_kind as error:
            raise refusals.unreadable(slot, info.name, "the WebUI does not know what kind of model it is") from error
        except Exception as error:
            raise refusals.unreadable(slot, info.name, refusals.reason(error)) from error

    def _component(
        self,
        guess: Any,
        name: str,
        entry: Sequence[str],
        repository: Path,
        weights: Mapping[str, torch.Tensor] | None,
        info: Any,
        slot: int,
    ) -> Any:
        if name == "vae":
            return self.vae_without_weights(repository / "vae")
        if name == "unet" and not weights:
            raise refusals.without_unet(slot, info.name)
        # the host may empty what it is given
        given = set(weights or {})
        library, class_name = entry
        made = self.host.load_huggingface_component(guess, name, library, class_name, str(repository), weights)
        if isinstance(made, torch.nn.Module):
            missing = [key for key in _needed(made) if key not in given and not key.endswith(UNUSED)]
            refusals.refuse_missing_tensors(slot, info.name, missing)
        return made


def _needed(model: torch.nn.Module) -> Iterator[str]:
    """The names of all weights of a model; Forge's linear layers have none of those that were not loaded."""
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
    named = params.get("parameterization") or scaling
    if named == "v" or named.endswith(".VScaling"):
        return "v_prediction"
    return PREDICTIONS.get(guess.model_type.name)
