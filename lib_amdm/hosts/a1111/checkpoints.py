"""A1111: load a further checkpoint without touching the main one, with the parts of 1.10's own loader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from modules import (
    devices,
    lowvram,
    sd_disable_initialization,
    sd_hijack,
    sd_models,
    sd_models_config,
    sd_models_xl,
    sd_unet,
    shared,
)
from modules.timer import Timer
from omegaconf import OmegaConf

from ...comodels.cache import Loaded
from ...core.accelerator import same_place
from ...families import Family, flow_family, unet_family
from ..common import refusals
from ..common.hijack import flagged_family
from ..webui_types import CheckpointInfo, MainModel, Processing
from .pickled import state_dict_of

VAE_PREFIX = "first_stage_model."
UNUSED = ("logit_scale", "text_projection", "position_ids")
"""Ends of the names of weights that some files lack and no prediction needs, or that are the same in every file."""
CLIP_KEYS = (
    sd_models.sd1_clip_weight,
    sd_models.sd2_clip_weight,
    sd_models.sdxl_clip_weight,
    sd_models.sdxl_refiner_clip_weight,
)


def variant() -> tuple[Any, ...]:
    """Return the options that, besides the file, affect how a checkpoint is loaded."""
    in_fp8 = ("fp8", shared.opts.cache_fp16_weight) if devices.fp8 else ()
    return (shared.cmd_opts.no_half, shared.cmd_opts.opt_channelslast, *in_fp8)


def load(
    info: CheckpointInfo, main: MainModel, slot: int, modules: Sequence[str], device: torch.device | None
) -> Loaded:
    """Load the checkpoint's UNet and text encoder in the main model's dtype and device; AmdmError if it cannot be.

    modules: not used, since this host has one file for a checkpoint.
    device: the UNet's, if it is another than the main model's.

    The VAE is loaded too if the main model has another latent space. The host's `load_model` would replace the main
    model, so its parts are called here in the same order: state dict, config, construction without weights, weights,
    dtype, text-encoder wrapping.
    """
    weights = _read(info, slot)
    config_path = sd_models_config.find_checkpoint_config(weights, info)
    config = OmegaConf.load(config_path)
    sd_models.repair_config(config, weights)
    with (
        sd_disable_initialization.DisableInitialization(),
        sd_disable_initialization.InitializeOnMeta(),
        # some modules draw random numbers from the generator that the host encodes pictures with
        torch.random.fork_rng(devices=[]),
    ):
        model = sd_models.instantiate_from_config(config.model, weights)
    model.used_config = config_path
    sd_models.set_model_type(model, weights)
    sd_models.set_model_fields(model)
    if model.is_sdxl:
        sd_models_xl.extend_sdxl(model)
    if model.is_ssd:
        sd_hijack.model_hijack.convert_sdxl_to_ssd(model)
    model.is_sdxl_inpaint = model.is_sdxl and in_channels(model) == 9
    refusals.refuse_flow_beside(slot, info, family(model))
    refusals.refuse_other_family(slot, info, family(model), main.sd_checkpoint_info, family(main))
    vae_keys = [key for key in weights if key.startswith(VAE_PREFIX)]
    if not family(model).crosses(family(main)):
        model.first_stage_model = None
        for key in vae_keys:
            del weights[key]
    elif not vae_keys:
        raise refusals.without_autoencoder(slot, info.name, "choose a checkpoint with its VAE")
    _refuse_missing(model, weights, info, slot)
    _fill(model, weights, main, device)
    model.sd_checkpoint_info = info
    model.sd_model_checkpoint = info.filename
    with _text_encoder_wrapping():
        _OwnHijack().hijack(model)
    return Loaded(info.title, model)


def _fill(model: Any, weights: Mapping[str, Any], main: MainModel, device: torch.device | None) -> None:
    """Give a model its weights in the main model's dtypes, and place it."""
    # the host's own rule: the VAE has a dtype apart
    conversion = None
    if not shared.cmd_opts.no_half:
        conversion = {"first_stage_model": None, "alphas_cumprod": None, "": torch.float16}
    on_cpu = device is not None or lowvram.is_enabled(main)
    begins_on = devices.cpu if on_cpu else devices.device
    with sd_disable_initialization.LoadStateDictOnMeta(weights, device=begins_on, weight_dtype_conversion=conversion):
        model.load_state_dict(weights, strict=False)
    _to_main_dtype(model)
    model.lowvram = False
    model.eval()
    model.requires_grad_(False)
    model.to(begins_on)
    if model.first_stage_model is not None:
        model.first_stage_model.to(devices.dtype_vae)
    model.amdm_device = device
    if device is not None and device.type == "cpu":
        _compute_on_cpu(model)
    place_small_parts(model)


def family(model: Any) -> Family:
    name = flagged_family(model, "SD1")
    if name == "SD3":
        return flow_family(name)
    return unet_family(name, in_channels(model), has_labels=model.model.conditioning_key == "crossattn-adm")


def in_channels(model: Any) -> int:
    """Return the input channels of the UNet; 4 for a model without one (SD3)."""
    blocks = getattr(getattr(model.model, "diffusion_model", None), "input_blocks", None)
    return blocks[0][0].in_channels if blocks is not None else 4


def _read(info: CheckpointInfo, slot: int) -> dict[str, torch.Tensor]:
    """Return the file's tensors, in a dictionary that may be emptied."""
    info.calculate_shorthash()  # the host then has the hash in the file's title
    try:
        weights = state_dict_of(info.filename, lambda: sd_models.get_checkpoint_state_dict(info, Timer()))
    except Exception as error:
        raise refusals.unreadable(slot, info.name, refusals.reason(error)) from error
    if not any(key.startswith("model.diffusion_model.") for key in weights):
        raise refusals.without_unet(slot, info.name)
    return weights


def _refuse_missing(model: torch.nn.Module, weights: Mapping[str, Any], info: CheckpointInfo, slot: int) -> None:
    """Raise AmdmError if the file lacks weights; the host itself would fill them with zeros and draw noise."""
    if not any(key in weights for key in CLIP_KEYS):
        # for a main model the host would download one
        raise refusals.without_texts(slot, info.name)
    names = (name for name, _ in model.named_parameters())
    missing = [name for name in names if name not in weights and not name.endswith(UNUSED)]
    refusals.refuse_missing_tensors(slot, info.name, missing)


def _to_main_dtype(model: Any) -> None:
    """Pack the layers as the main model's with the host's "FP8 weight"."""
    alphas, vae = model.alphas_cumprod, model.first_stage_model
    if shared.cmd_opts.opt_channelslast:
        model.to(memory_format=torch.channels_last)
    # in 16 bits a VAE would lose what 32 bits have
    model.first_stage_model = None
    if shared.cmd_opts.no_half:
        model.float()
    else:
        model.alphas_cumprod = None
        model.half()
    model.alphas_cumprod = alphas
    model.alphas_cumprod_original = alphas
    sd_models.apply_alpha_schedule_override(model)
    if devices.fp8:
        _pack(model)
    model.first_stage_model = vae


def reason_against(device: torch.device) -> str:
    """Return why a UNet cannot be evaluated on a device: options that hold for all models at once; or ""."""
    if device.type != "cpu":
        return ""
    if sd_hijack.model_hijack.optimization_method == "xformers":
        return "xformers, which the WebUI uses for attention, works on GPUs alone"
    return "--upcast-sampling works on GPUs alone" if devices.unet_needs_upcast else ""


def device_of(model: Any) -> torch.device:
    """Return the device on which a model's UNet is evaluated."""
    chosen: torch.device | None = getattr(model, "amdm_device", None)
    return devices.device if chosen is None else chosen


def is_elsewhere(model: Any) -> bool:
    """Return True for a co-model whose UNet is on another device; its text encoder and VAE come to the main model's."""
    return getattr(model, "amdm_device", None) is not None


def _compute_on_cpu(model: Any) -> None:
    """Have the UNet compute in 32 bits: on the CPU not every layer has half precision.

    The host gives every UNet its inputs in the main model's dtype.
    """

    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def in_32_bits(_: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}

    model.model.float()
    model.model.diffusion_model.register_forward_pre_hook(in_32_bits, with_kwargs=True)


def _pack(model: torch.nn.Module) -> None:
    """Store layers' weights in 8 bits and, by the user's choice, also in 16, for LoRAs to be added to."""
    for layer in [module for module in model.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))]:
        if shared.opts.cache_fp16_weight:
            for name, weight in layer.named_parameters(recurse=False):
                setattr(layer, f"fp16_{name}", weight.detach().to("cpu", torch.float16))
        layer.to(torch.float8_e4m3fn)


class _OwnHijack(sd_hijack.StableDiffusionModelHijack):
    """Return the host's text-encoder wrapping with its own state, so that the main model's is never written.

    The embeddings are the main one's: they are looked up by the user's words.
    """

    def __init__(self) -> None:
        self.embedding_db = sd_hijack.model_hijack.embedding_db
        self.clear_comments()

    def apply_optimizations(self, option: Any = None) -> None:
        """Do nothing: the attention optimization is process-wide, and the main model has set it."""


@contextmanager
def _text_encoder_wrapping() -> Iterator[None]:
    """Keep the one process-wide name that the host's wrapping writes."""
    original = sd_unet.original_forward
    try:
        yield
    finally:
        sd_unet.original_forward = original


def prepare(model: Any, p: Processing, main: Any) -> None:
    """Prepare a loaded model for a pass with the `main` one, as the host prepares that one."""
    if model.parameterization != "v" and main.parameterization == "v":
        # the option's noise schedule is for the main model; this one keeps the one that it was trained on
        model.alphas_cumprod = model.alphas_cumprod_original.to(device_of(model))
    else:
        sd_models.apply_alpha_schedule_override(model)
    set_tiling(model, p.tiling)
    sd_models.apply_token_merging(model, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
    if is_elsewhere(model):
        place_small_parts(model)
        move(model.model, device_of(model))
    elif lowvram.is_enabled(main):
        place_small_parts(model)
    else:
        move(model, devices.device)


def set_tiling(model: Any, tiling: bool) -> None:
    """Make all convolutions wrap around the borders, the VAE's too, as the host does for the main model."""
    mode: Literal["circular", "zeros"] = "circular" if tiling else "zeros"
    for layer in model.modules():
        if type(layer) is torch.nn.Conv2d:
            layer.padding_mode = mode


def text_encoder(model: Any) -> torch.nn.Module:
    encoder: torch.nn.Module = model.conditioner if model.is_sdxl else model.cond_stage_model
    return encoder


def place_small_parts(model: Any) -> None:
    """Put all except UNet, text encoder and VAE on the model's device: with --medvram and --lowvram only these move."""
    large = (model.model, text_encoder(model), model.first_stage_model)
    for part in model.children():
        if not any(part is other for other in large):
            move(part, device_of(model))
    for name, tensor in model.named_buffers(recurse=False):
        setattr(model, name, tensor.to(device_of(model)))


def move(module: torch.nn.Module, device: torch.device) -> None:
    """Move a module that is not entirely on the device; one that does not fit returns to the CPU."""
    tensors = (*module.parameters(), *module.buffers())
    if all(same_place(tensor.device, device) for tensor in tensors):
        return
    try:
        module.to(device)
    except Exception:
        module.to(devices.cpu)
        raise
