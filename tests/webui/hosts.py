"""The differences between the WebUIs, for the tests: where they are, how they are started, what they have and lack."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from .rehearsal import Rehearsal

NOTHING, SAMPLER, MAIN, EVERY = "no model", "what the sampler calls", "the main model", "every model"
"""The places that extensions act on: a co-model "main" does not call what the sampler calls."""


class Effect(NamedTuple):
    """An extension at work."""

    title: str = ""
    """Its name as a script, if it is one."""
    arguments: tuple[Any, ...] = ()
    acts_on: str = EVERY
    request: Mapping[str, Any] = MappingProxyType({})
    """The parameters of the pictures with it and without."""
    more: Mapping[str, Any] = MappingProxyType({})
    """Further parameters of those with it."""
    from_picture: bool = False


@dataclass(frozen=True)
class Host:
    """A WebUI: where it is, how it is told to stay on the CPU, and its facts."""

    name: str
    cpu_flags: tuple[str, ...]
    card_exact: tuple[str, ...]
    """Its arguments on a card so that it computes there as it does on the CPU: in 32 bits."""

    card_ways: Mapping[str, Rehearsal]
    """The ways to use a card that it is tested in, by name."""

    samplers: tuple[str, ...]
    schedulers: tuple[str, ...]
    more_samplers: bool = False
    """True if it has further samplers, which are drawn with, but have no rows in the tables."""

    smaller: tuple[str, ...] = ()
    """Samplers among the further ones that show some steps a smaller latent alone; nothing is mixed in these."""

    sizes: str = "small"
    """The tests' checkpoints that it can load, see `checkpoints.py`."""

    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request here: with the WebUI's own defaults it fails, or does something else."""

    upscalers: Mapping[str, str] = field(default_factory=dict)
    """Its upscalers in the place of those that it does not have; they are all of pictures, and round to bytes."""

    lacks: Mapping[str, str] = field(default_factory=dict)
    """Features that this WebUI does not have or that do nothing in it, and why."""

    opens: int = 1
    """The number of times that its loader opens a checkpoint's file."""

    low_bits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The ways to start it with the main model's weights in 8 bits, by name."""

    low_bits_in_bfloat16: bool = False
    """True if it computes in bfloat16 then, where the last bit of a float32 sum may show."""

    whole: Mapping[str, Any] = field(default_factory=dict)
    """The option that keeps them whole, if a checkpoint that is packed after another is not what it is by itself."""

    plot: tuple[Any, ...] = ()
    """The arguments of its X/Y/Z plot after the legend that the others' does not have."""

    plot_rows: tuple[Any, ...] = ()
    """The same, before the margin."""

    flags: tuple[str, ...] = ("--no-download-sd-model",)
    """Further arguments that not every WebUI knows."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of its file of options."""

    flow_families: tuple[str, ...] = ()
    """The families of `flow_checkpoints.py` that AMDM runs on it."""
    controls: Mapping[str, Any] = field(default_factory=dict)
    """The entries of its file of the page's defaults after a first start."""

    card_flags: tuple[str, ...] = ()
    """Its further arguments there."""

    cpu_as_card: tuple[str, ...] = ()
    """The option that makes the CPU compute in the order that a card does."""

    effects: Mapping[str, Effect] = field(default_factory=dict)
    """Its own extensions."""

    free_u: Effect | None = None
    """The one among them that acts on a UNet of several levels alone."""

    card_loading: Mapping[str, Any] = field(
        # with a part of them there already
        default_factory=lambda: {
            "operation": "copy to the card",
            "place": "hosts/common/patchers.py:_load",
            "skip": 100,
        }
    )
    """A co-model's way to the card (`card.record.Fault`): before a pass, with the host's own."""

    script: str = "launch.py"
    ready_text: str = "Startup time:"
    card_ready_text: str = ""
    """A line that it writes once its first model is loaded, if an earlier picture moves the same text encoder to
    the card at the same time, and the process may die of it."""

    @property
    def directory_variable(self) -> str:
        return f"AMDM_{self.name.upper()}_DIR"

    def directory(self) -> Path | None:
        """The checkout named by the environment, or None."""
        value = os.environ.get(self.directory_variable)
        return Path(value).expanduser().resolve() if value else None

    def python(self) -> str:
        """The interpreter: the one named by the environment, the checkout's own, or the one running the tests."""
        named = os.environ.get(f"AMDM_{self.name.upper()}_PYTHON")
        if named:
            return named
        directory = self.directory()
        own = directory / "venv" / "bin" / "python" if directory else None
        return str(own) if own and own.exists() else sys.executable


# what all of them have
SAMPLERS = (
    *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler"),
    *("LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "PLMS", "UniPC", "LCM"),
)
SCHEDULERS = (
    *("automatic", "uniform", "karras", "exponential", "polyexponential", "sgm_uniform", "kl_optimal"),
    *("align_your_steps", "simple", "normal", "ddim", "beta"),
)
TABLES = ("turbo", "align_your_steps_GITS", "align_your_steps_11", "align_your_steps_32")
CANVAS = {"painting": "a mask is painted with the canvas of A1111's page alone"}
OF_NEO = dict.fromkeys(
    ("refiner's weights alone", "rectified flow", "epsilon scaling", "presets"), "only Forge Neo has it"
)
HYPERTILE = {"override_settings": {"hypertile_enable_unet": True}}
A1111 = Host(
    name="a1111",
    cpu_flags=("--use-cpu", "all", "--no-half", "--precision", "full", "--do-not-download-clip"),
    card_exact=("--no-half", "--precision", "full"),
    card_flags=("--opt-sdp-no-mem-attention", "--do-not-download-clip"),
    card_ways={
        "plain": Rehearsal(),
        "medvram": Rehearsal(flags=("--medvram",)),
        "lowvram": Rehearsal(flags=("--lowvram",)),
    },
    cpu_as_card=("--opt-sdp-no-mem-attention",),
    card_loading={"operation": "copy to the card", "place": "hosts/common/slot.py:_load", "skip": 3},
    samplers=(*SAMPLERS, "DDIM CFG++"),
    schedulers=SCHEDULERS,
    # a picture whose sides are several of its smallest tiles
    effects={"hypertile": Effect("", (), MAIN, {"width": 512, "height": 256}, HYPERTILE)},
    sizes=os.environ.get("AMDM_A1111_SIZES", "small"),
    lacks={
        **dict.fromkeys(("CFG of its own", "CFG 1 of its own"), "hires fix has the CFG of the first pass"),
        "guidance functions": "guidance is its denoiser's own",
        **OF_NEO,
    },
    low_bits={
        "8 bits": {"options": {"fp8_storage": "Enable"}},
        "8 bits with 16 beside": {"options": {"fp8_storage": "Enable", "cache_fp16_weight": True}},
    },
    low_bits_in_bfloat16=True,
    # it would round the noise schedule of the second one to 16 bits
    whole={"fp8_storage": "Disable"},
)
BY_ITSELF = dict.fromkeys(("medvram", "lowvram"), "the memory manager sees by itself what fits")
PADDINGS = ("padded", "padded, long negative", "padded as of old")
TOGETHER = {"uncond and cond apart": "they are together wherever the memory allows"}
WIDE = {"width": 128, "height": 64}
TILES = ("MultiDiffusion", 64, 64, 16, 4)
THRESHOLDING = Effect(
    "DynamicThresholding (CFG-Fix) Integrated",
    (True, 7, 1, "Constant", 0, "Half Cosine Up", 0, 1, "enable", "MEAN", "AD", 0.7),
)
HR_FIX = Effect("Kohya HRFix Integrated", (True, 1, 2, 0, 1, True, "bicubic", "bicubic"), MAIN)
# sharpness and contrast; the second adds its own noise
MODIFIED, NOISY = (
    (
        *(50, "anisotropic", 0, "reinhard", 100, 20, "subtract", 0, 0),
        *("gaussian", "add", noise, 100, 127, 0, "hard_clamp", 5, 0, "None", "None"),
    )
    for noise in (0, 2)
)
SWAPPING = ("--cuda-stream", "--pin-shared-memory")
# of these the memory managers keep a GB for what a picture takes beside the models
MANAGED = {
    "plain": Rehearsal(),
    "scarce": Rehearsal(1300),
    "scarcer": Rehearsal(1090),
    "scarce_swapping": Rehearsal(1300, SWAPPING),
    "native": Rehearsal(native=True),
    "native_scarce": Rehearsal(1300, native=True),
}
FORGE = Host(
    name="forge",
    cpu_flags=("--always-cpu",),
    card_exact=("--all-in-fp32", "--vae-in-fp32"),
    card_ways=MANAGED,
    cpu_as_card=("--attention-pytorch",),
    samplers=(*SAMPLERS, "DDIM CFG++", "HeunPP2", "IPNDM", "IPNDM_V", "DEIS", "DDPM"),
    schedulers=(*SCHEDULERS, *TABLES),
    sizes="guessed",
    low_bits={
        "8 bits": {"options": {"forge_unet_storage_dtype": "float8-e4m3fn"}},
        "8 bits, LoRAs in 16": {"options": {"forge_unet_storage_dtype": "float8-e4m3fn (fp16 LoRA)"}},
    },
    request={"hr_additional_modules": ["Use same choices"], "hr_cfg": 3},
    flow_families=("flux", "schnell", "chroma"),
    effects={
        "PAG that fades": Effect("PerturbedAttentionGuidance Integrated", (True, 3, 20, 0, 1)),
        "PAG in late steps": Effect("PerturbedAttentionGuidance Integrated", (True, 30, 20, 0.3, 1)),
        "dynamic thresholding": THRESHOLDING,
        "latent modifier": Effect("LatentModifier Integrated", (True, *MODIFIED)),
        "latent modifier, noise": Effect("LatentModifier Integrated", (True, *NOISY)),
        "SAG": Effect("SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)", (True, 2, 2, 1), MAIN),
        "Kohya HRFix": HR_FIX,
        "StyleAlign": Effect("StyleAlign Integrated", (True, 1), MAIN, {"batch_size": 2}),
        "MultiDiffusion": Effect("MultiDiffusion Integrated", (True, *TILES), MAIN, WIDE),
        "never OOM": Effect("Never OOM Integrated", (True, False), NOTHING),
    },
    free_u=Effect("FreeU Integrated (SD 1.x, SD 2.x, SDXL)", (True, 1.5, 1.6, 0.9, 0.2, 0, 1), MAIN),
    lacks={
        **CANVAS,
        **BY_ITSELF,
        **TOGETHER,
        **OF_NEO,
        "tiling": "it is switched off in Forge",
        **dict.fromkeys(PADDINGS, "Forge repeats texts of different length instead"),
        "quantized sigmas": "Forge always uses whole timesteps",
        "IA3": "Forge's LoRA loader does not know it",
        "accordion's default": "Forge does not save it among a user's defaults",
    },
)
REFORGE = Host(
    name="reforge",
    cpu_flags=("--always-cpu",),
    card_exact=("--all-in-fp32",),
    card_ways=MANAGED,
    card_ready_text=" loaded in ",
    cpu_as_card=("--attention-pytorch",),
    # it makes a UNet on the card where more is free there than on the CPU, and a text encoder goes up later
    card_loading={"operation": "copy to the card", "place": "hosts/reforge/checkpoints.py:load", "skip": 3},
    samplers=SAMPLERS,
    more_samplers=True,
    smaller=("DPM++ 2S Ancestral CFG++ Intern",),
    schedulers=(
        *(*SCHEDULERS, *TABLES, "sinusoidal_sf", "invcosinusoidal_sf", "react_cosinusoidal_dynsf", "cosine", "phi"),
        *("align_your_steps_custom", "cosine-exponential blend", "laplace", "karras dynamic"),
    ),
    sizes="guessed",
    # its automatic choice of a text encoder reads that from the file by itself
    opens=2,
    # labels of single pictures, no grid, pictures in one
    plot=(False, False, 0),
    effects={
        "momentum": Effect(
            '"APG\'s now your CFG" and Guidance Limiter for reForge', (True, 0.5, 0, 15, 1, False, -1, -1)
        ),
        "RescaleCFG": Effect("RescaleCFG for reForge", (True, "Normal", 0.7)),
        "MaHiRo": Effect("Mahiro CFG for reForge", (True,)),
        "latent modifier": Effect(
            "LatentModifier Integrated",
            (
                *(True, 50, "anisotropic", "None", True, 0, "reinhard", 100, 20),
                *(False, "gaussian", "add", 0, 100, "subtract", 0, 0),
                *(False, 127, 0, "hard_clamp", 5, 0, False, "None"),
            ),
        ),
        "dynamic thresholding": Effect(
            "DynamicThresholding (CFG-Fix) Integrated",
            (True, False, 1, 0.9, "Constant", 0, "Half Cosine Up", 0, 1, "enable", "MEAN", "AD", 0.7),
        ),
        "SAG": Effect("SelfAttentionGuidance Integrated", (True, 2, 2), MAIN),
        "Kohya HRFix": HR_FIX,
        "HyperTile": Effect("HyperTile Integrated", (True, 32, 2, 0, False), MAIN, WIDE),
        "MultiDiffusion": Effect("MultiDiffusion Integrated", (True, *TILES, "none"), MAIN, WIDE),
        "never OOM": Effect("Never OOM Integrated", (True, False, 512, 64), NOTHING),
    },
    free_u=Effect("FreeU Integrated", (True, 1.5, 1.6, 0.9, 0.2), MAIN),
    low_bits={"8 bits": {"arguments": ["--unet-in-fp8-e4m3fn"]}},
    request={"hr_cfg": 3},
    lacks={
        **CANVAS,
        **BY_ITSELF,
        **TOGETHER,
        **OF_NEO,
        "quantized sigmas": "reForge always uses whole timesteps",
        "errors on the page": "whatever went wrong, its page shows a TypeError of its own",
        "IA3": "reForge's LoRA loader does not know it",
        **dict.fromkeys(PADDINGS, "reForge's padding does not reach its models"),
    },
)
NEO = Host(
    name="neo",
    cpu_flags=("--cpu",),
    card_exact=("--fp32-unet", "--fp32-vae", "--fp32-text-enc"),
    card_ways=MANAGED,
    cpu_as_card=("--use-pytorch-cross-attention",),
    flags=(),
    # without the first, the launcher takes the file for an old version's and asks what to do; without the second, the
    # refiner's weights stay in the main model; by itself it counts no steps, but goes by noise levels; the folder for
    # pictures that are not saved is one of its own otherwise, which it does not make
    options={
        "VERSION_UID": "PY313",
        "show_refiner": True,
        "refiner_use_steps": True,
        "refiner_fast_sd": False,
        "scaling_factor": 1.0,
        "show_rescale_cfg": True,
        "show_mahiro": True,
        "temp_dir": "",
    },
    # in a first start the boxes have no type yet, and the arrow button puts no text into them
    controls={f"{tab}/{box}/value": "" for tab in ("txt2img", "img2img") for box in ("Prompt", "Negative Prompt")},
    samplers=(
        *("DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 3M SDE", "Euler a", "Euler", "LMS", "Heun", "DPM2"),
        *("Restart", "DDIM", "PLMS", "UniPC", "LCM", "ER SDE", "Res Multistep", "Kohaku LoNyu Yog"),
        *("DPM++ 2M CFG++", "Euler a CFG++", "Euler CFG++"),
    ),
    # "DPM++ 2s a RF" draws nothing but NaN with models that predict eps or v
    more_samplers=True,
    schedulers=(
        *("automatic", "uniform", "karras", "exponential", "polyexponential", "sgm_uniform", "kl_optimal"),
        *("align_your_steps", "simple", "normal", "ddim", "beta", "turbo"),
        *("linear_quadratic", "bong_tangent", "flow_match", "flux2"),
    ),
    sizes="guessed",
    low_bits={"8 bits": {"options": {"forge_unet_storage_dtype": "float8-e4m3fn"}}},
    request={"hr_additional_modules": ["Use same choices"], "hr_cfg": 3},
    upscalers={"Latent": "None", "Lanczos": "None"},
    flow_families=(
        "flux",
        "schnell",
        "chroma",
        "zimage",
        "lumina",
        "anima",
        "qwen",
        "klein",
        "krea",
        "mugen",
        "rectified",
        "ernie",
        "animadeep",
        "wan",
    ),
    effects={
        "RescaleCFG": Effect("RescaleCFG", (0.7,)),
        "MaHiRo": Effect("MaHiRo", (True,)),
        "MultiDiffusion": Effect("MultiDiffusion Integrated", (True, *TILES), MAIN, WIDE, from_picture=True),
    },
    # as many rows as it takes
    plot_rows=(0,),
    lacks={
        **CANVAS,
        **BY_ITSELF,
        **TOGETHER,
        **dict.fromkeys(PADDINGS, "Forge Neo repeats texts of different length instead"),
        "quantized sigmas": "Forge Neo always uses whole timesteps",
        "old schedule": "Forge Neo has no such option",
        "IA3": "Forge Neo's LoRA loader does not know it",
        **dict.fromkeys(("SD2", "SD2, long and weighted"), "Forge Neo does not know SD2"),
    },
)
HOSTS = {host.name: host for host in (A1111, FORGE, REFORGE, NEO)}
ALL_SAMPLERS = tuple(dict.fromkeys(sampler for host in HOSTS.values() for sampler in host.samplers))
ALL_SCHEDULERS = tuple(dict.fromkeys(scheduler for host in HOSTS.values() for scheduler in host.schedulers))
