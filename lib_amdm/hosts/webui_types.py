"""The attributes of a WebUI's own objects that AMDM relies on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class CheckpointInfo(Protocol):
    """An entry of the list of checkpoints."""

    name: str
    title: str
    filename: str
    name_for_extra: str
    model_name: str

    def calculate_shorthash(self) -> Any: ...


class Denoiser(Protocol):
    """The module that a pass's sampler calls: it contains the main model and applies guidance."""

    step: int
    """The number of completed evaluations."""
    total_steps: int
    mask: Tensor | None
    """The part of an inpainting that keeps the known picture; `nmask` is the rest. None if nothing is inpainted."""
    nmask: Tensor
    init_latent: Tensor
    inner_model: nn.Module
    mask_before_denoising: bool
    """A1111's: the known picture is blended into the latent that a model gets."""
    cond_scale_miltiplier: float
    """A1111's and reForge's, spelt like this: DDIM CFG++ divides the guidance scale."""
    need_last_noise_uncond: bool
    """A1111's: set, `last_noise_uncond` keeps the output without the prompt."""
    last_noise_uncond: Tensor | None

    def register_forward_pre_hook(self, hook: Callable[..., Any], *, with_kwargs: bool = False) -> Any: ...

    def register_forward_hook(self, hook: Callable[..., Any]) -> Any: ...


class Sampler(Protocol):
    """The object of one pass's sampler."""

    func: Callable[..., Any]
    model_wrap_cfg: Denoiser
    sampler_extra_args: Mapping[str, Any]


class Processing(Protocol):
    """The request for pictures, and its state while they are drawn."""

    prompt: Any
    negative_prompt: Any
    styles: list[str]
    steps: int
    cfg_scale: float
    width: int
    height: int
    n_iter: int
    seed: Any
    subseed: Any
    sampler_name: str
    tiling: bool
    override_settings: dict[str, Any]
    extra_generation_params: dict[str, Any]
    script_args: Sequence[Any]
    scripts: Any
    paste_to: tuple[int, int, int, int] | None
    """The place of an inpainted crop in its picture: x, y, width, height."""
    init_images: Sequence[Any]
    comments: dict[str, Any]
    outpath_grids: str
    do_not_save_grid: bool

    all_prompts: Sequence[str]
    """Those of all pictures, `prompts` those of the present batch; the others likewise."""
    all_negative_prompts: Sequence[str]
    all_seeds: Sequence[int]
    all_subseeds: Sequence[int]
    prompts: Sequence[str]
    negative_prompts: Sequence[str]
    seeds: list[int]
    extra_network_data: Mapping[str, Sequence[Any]] | None
    sampler: Sampler
    sample: Callable[..., Any]

    is_hr_pass: bool
    """True in the second pass of hires fix, whose settings begin with hr."""
    hr_prompt: Any
    hr_negative_prompt: Any
    all_hr_prompts: Sequence[str]
    all_hr_negative_prompts: Sequence[str]
    hr_prompts: Sequence[str]
    hr_negative_prompts: Sequence[str]
    hr_extra_network_data: Mapping[str, Sequence[Any]] | None
    hr_sampler_name: str | None
    hr_second_pass_steps: int
    hr_upscale_to_x: int
    hr_upscale_to_y: int

    hr_cfg: float
    """This and the next two exist in Forge, reForge and Forge Neo."""
    distilled_cfg_scale: float
    hr_distilled_cfg: float

    def comment(self, text: str) -> None: ...

    def get_token_merging_ratio(self, for_hr: bool = False) -> float: ...


class Processed(Protocol):
    """The result of a request."""

    images: list[Any]
    infotexts: list[str]
    index_of_first_image: int
    comments: str


class MainModel(Protocol):
    """The main model, on every WebUI."""

    sd_checkpoint_info: CheckpointInfo


class Patcher(Protocol):
    """A model that a memory manager moves (Forge, reForge and Forge Neo)."""

    model: Any
    model_options: dict[str, Any]
    load_device: Any
    offload_device: Any
    extra_preserved_memory_during_sampling: float
    extra_model_patchers_during_sampling: list[Patcher]

    def clone(self) -> Patcher: ...

    def memory_required(self, shape: Sequence[int]) -> float: ...

    def add_extra_model_patcher_during_sampling(self, patcher: Patcher) -> None: ...

    def partially_unload(self, device: Any, memory: float) -> float: ...


class TextEncoder(Protocol):
    """A text encoder with its patcher (Forge, reForge and Forge Neo)."""

    cond_stage_model: Any
    patcher: Patcher


class ForgeObjects(Protocol):
    """The parts of an engine."""

    unet: Patcher
    clip: TextEncoder
    vae: Any
    clipvision: Any

    def shallow_copy(self) -> ForgeObjects: ...


class Engine(MainModel, Protocol):
    """A model of Forge, reForge or Forge Neo."""

    filename: str
    forge_objects: ForgeObjects
    forge_objects_original: ForgeObjects
    forge_objects_after_applying_lora: ForgeObjects
    current_lora_hash: str
    model_config: Any
    first_stage_model: Any
    cond_stage_model: Any
    """reForge's, a text encoder wrapped as in A1111."""
    ztsnr: bool
    """reForge's; on Forge and Forge Neo it is the model_config's."""
    text_processing_engine: Any
    """Forge's and Forge Neo's."""

    def set_clip_skip(self, clip_skip: int) -> None: ...
