"""reForge: load a further checkpoint with the host's loader for its main one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ldm_patched.ldm.modules import attention
from ldm_patched.modules import model_management
from ldm_patched.modules.model_sampling import V_PREDICTION, rescale_zero_terminal_snr_sigmas
from modules import sd_models, shared
from modules.timer import Timer
from modules_forge import forge_loader
from modules_forge.forge_util import apply_circular_forge

from ...comodels.cache import Loaded
from ...families import TEXT_WIDTHS, UNKNOWN, Family, flow_family, unet_family
from ...files.container import refuse_code
from ..common import refusals
from ..common.elsewhere import Elsewhere
from ..common.hijack import flagged_family
from ..webui_types import CheckpointInfo, Engine, Processing

SAME_NAMES = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
"""Text encoders with the same names in memory as in the file."""

VAES = ("first_stage_model.", "vae.")
"""Beginnings of the names of a VAE's weights."""
ELSEWHERE = Elsewhere(model_management, attention.optimized_attention, "manual_cast_dtype", "ldm_patched_cast_weights")
UNUSED = ("logit_scale", "text_projection.weight", "position_ids")


class LoadedModel(torch.nn.Module):
    """The parts of a model that are kept, as one module: its UNet, its text encoders, and the model that uses them."""

    engine: Engine
    unet: Any

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.unet = engine.forge_objects.unet.model
        self.texts = engine.forge_objects.clip.cond_stage_model
        self.vae = getattr(engine.forge_objects.vae, "first_stage_model", None)
        # not as a submodule, since it has the same parts
        self.__dict__["engine"] = engine
        self.schedule = self.unet.model_sampling.sigmas, self.unet.model_sampling.log_sigmas

    def prepare(self, p: Processing, main: Engine) -> None:
        """Prepare the model for a pass with the `main` one, as the host prepares that one."""
        engine = self.engine
        engine.forge_objects = engine.forge_objects_original.shallow_copy()
        sd_models.apply_token_merging(engine, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        apply_circular_forge(engine, p.tiling)
        sampling = self.unet.model_sampling
        # copy the logarithms too: recomputed they differ in the last bit, and half a timestep is rounded the other way
        sampling.sigmas, sampling.log_sigmas = (values.to(sampling.sigmas.device) for values in self.schedule)
        # the option's noise schedule is for the main model; an eps model with a v model keeps its own
        keeps_schedule = predicts_v(main) and not predicts_v(engine)
        if (shared.opts.sd_noise_schedule == "Zero Terminal SNR" and not keeps_schedule) or engine.ztsnr:
            sampling.set_sigmas(rescale_zero_terminal_snr_sigmas(sampling.sigmas))


def variant() -> tuple[Any, ...]:
    """Return the options that, besides the file, affect how a checkpoint is loaded."""
    return (getattr(shared.opts, "sd_text_encoder", None), str(shared.cmd_opts.embeddings_dir))


def family_of(model: Engine) -> Family:
    name = flagged_family(model, UNKNOWN)
    unet = model.forge_objects.unet.model
    config = unet.model_config.unet_config
    if not _has_sigmas(model):
        return flow_family(name if name == "SD3" else type(unet).__name__)
    if name == "SD1":
        # the host's own flag never says SD2
        name = TEXT_WIDTHS.get(config.get("context_dim"), name)
    return unet_family(name, config.get("in_channels", 4), bool(config.get("adm_in_channels")))


def predicts_v(model: Engine) -> bool:
    """Return True if the network predicts v; the host's own type of a model may say eps even then."""
    return isinstance(model.forge_objects.unet.model.model_sampling, V_PREDICTION)


def _has_sigmas(model: Engine) -> bool:
    return model.forge_objects.unet.model.model_type.name in ("EPS", "V_PREDICTION")


@torch.inference_mode()
def load(info: CheckpointInfo, main: Engine, slot: int, modules: Sequence[str], device: torch.device | None) -> Loaded:
    """Load the checkpoint's model, as the host loads a main one; AmdmError if it cannot be.

    modules: not used, since this host has one file for a checkpoint.
    device: the UNet's, if it is another than the main model's.

    Its VAE is kept only if the main model has another latent space.
    """
    weights = _read(info, slot)
    names = set(weights)
    if not any(name.startswith(refusals.TEXTS) for name in names) and not _texts_are_elsewhere(info):
        raise refusals.without_texts(slot, info.name)
    # some modules draw random numbers from the generator that the host encodes pictures with
    with torch.random.fork_rng(devices=[]), _text_encoder_choice_kept():
        engine = forge_loader.load_model_for_a1111(timer=Timer(), checkpoint_info=info, state_dict=weights)
    engine.filename = info.filename
    family, of_main = family_of(engine), family_of(main)
    refusals.refuse_flow_beside(slot, info, family)
    refusals.refuse_other_family(slot, info, family, main.sd_checkpoint_info, of_main)
    refusals.refuse_missing_tensors(slot, info.name, list(_missing(engine, names)))
    crosses = family.crosses(of_main)
    if crosses and not any(name.startswith(VAES) for name in names):
        raise refusals.without_autoencoder(slot, info.name, "choose a checkpoint with its VAE")
    if device is not None:
        ELSEWHERE.put(engine.forge_objects.unet, device, slot, info.name)
    engine.first_stage_model = None
    for objects in (engine.forge_objects, engine.forge_objects_original, engine.forge_objects_after_applying_lora):
        objects.clipvision = None
        if not crosses:
            objects.vae = None
    return Loaded(info.title, LoadedModel(engine))


def _read(info: CheckpointInfo, slot: int) -> dict[str, torch.Tensor]:
    """Return the file's tensors through the host's own readers, in a new dictionary."""
    try:
        refuse_code(info.filename)
        weights = dict(sd_models.get_checkpoint_state_dict(info, Timer()))
    except Exception as error:
        raise refusals.unreadable(slot, info.name, refusals.reason(error)) from error
    if not any(key.startswith("model.diffusion_model.") for key in weights):
        raise refusals.without_unet(slot, info.name)
    return weights


def _texts_are_elsewhere(info: CheckpointInfo) -> bool:
    """Return True if the user has chosen a text encoder, or the host has one of the checkpoint's name.

    Without either the host would use any.
    """
    try:
        from modules import sd_text_encoder
    except ImportError:
        return False
    chosen, listed = getattr(shared.opts, "sd_text_encoder", "Automatic"), sd_text_encoder.text_encoder_options
    if chosen == "Automatic":
        return any(encoder.model_name == info.model_name for encoder in listed)
    return any(encoder.label == chosen for encoder in listed)


def _missing(engine: Engine, names: set[str]) -> Iterator[str]:
    """Return the weights that the file lacks, of the parts with the same names in memory as in the file."""
    parts: dict[str, torch.nn.Module] = {"model.diffusion_model.": engine.forge_objects.unet.model.diffusion_model}
    for prefix in SAME_NAMES:
        if any(name.startswith(prefix) for name in names):
            parts[prefix] = engine.forge_objects.clip.cond_stage_model.clip_l.transformer
    for prefix, part in parts.items():
        for name, _ in part.named_parameters():
            stored = prefix + name.replace("token_embedding.wrapped.", "token_embedding.")
            if stored not in names and not stored.endswith(UNUSED):
                yield stored


@contextmanager
def _text_encoder_choice_kept() -> Iterator[None]:
    """Restore the process-wide text encoder, which the loader overwrites: it belongs to the main model alone."""
    try:
        from modules import sd_text_encoder
    except ImportError:
        yield
        return
    before: Mapping[str, Any] = {
        name: getattr(sd_text_encoder, name, None) for name in ("current_text_encoder", "current_text_encoder_option")
    }
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(sd_text_encoder, name, value)
