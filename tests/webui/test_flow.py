"""Flow models: every family that the README names, beside itself, beside its like, and beside another of its latents.

The checkpoints are random ones in the published formats (`flow_checkpoints.py`); each is drawn with the host's own
loader, and with the extension `flow_sizes` that lets the host build models as small as these files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import write_gguf
from small_autoencoders import write

from lib_amdm.comodels.file_list import without_hash
from lib_amdm.files.checkpoint_family import family_in

from .conftest import REPOSITORY
from .flow_checkpoints import FAMILIES
from .flow_webui import SDXL, FlowWebUI
from .hosts import Host
from .probed import OPTIONS, Drawn, Probed, distance, settings, slot

STEPS = 4
CLOSE = 1e-4
MEGABYTE = 2**20
SHIFT_OF_FLUX, SHIFT_OF_KLEIN = math.exp(1.15), math.exp(2.02)
ACROSS = (
    ("schnell", "chroma", 1.0),
    ("schnell", "lumina", 1.0),
    ("schnell", "zimage", 1.0),
    ("flux", "lumina", SHIFT_OF_FLUX),
    ("zimage", "flux", SHIFT_OF_FLUX),
    ("lumina", "zimage", 3.0),
    ("qwen", "anima", SHIFT_OF_FLUX),
    ("qwen", "krea", 1.0),
    ("anima", "krea", SHIFT_OF_FLUX),
    ("anima", "animadeep", 3.0),
    ("animadeep", "anima", 3.0),
    ("klein", "ernie", SHIFT_OF_KLEIN),
    ("ernie", "klein", SHIFT_OF_KLEIN),
    ("qwen", "wan", SHIFT_OF_FLUX),
    ("wan", "anima", 3.0),
)
"""Families of the same latents: a main model, a co-model, and the shift at which both have the same noise levels."""


class Flowing(Probed):
    """Draws with flow checkpoints, named by family and letter."""

    def __init__(self, server: FlowWebUI) -> None:
        super().__init__(server)
        self.kept: dict[Any, Drawn] = {}

    def of(self, main: str, amdm: Any = None, beside: str = "", **parameters: Any) -> Drawn:
        return self.draw(amdm, **asked(main, beside, parameters))

    def plain(self, main: str, beside: str = "", **parameters: Any) -> Drawn:
        """The main model's own picture, drawn once."""
        key = (main, beside, *sorted(parameters.items()))
        if key not in self.kept:
            self.kept[key] = self.of(main, beside=beside, **parameters)
        return self.kept[key]


def asked(main: str, beside: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A request's parameters. beside: a co-model whose text encoder is chosen too."""
    kept = {"override_settings_restore_afterwards": False}
    return {"checkpoint": main, "beside": beside, "steps": STEPS, **kept, **parameters}


@pytest.fixture(scope="module")
def flowing(webui_host: Host, flow_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flowing]:
    start: dict[str, Any] = {"probe": True, "extension": REPOSITORY, "options": OPTIONS}
    folder = tmp_path_factory.mktemp("flowing")
    server = FlowWebUI(webui_host, folder, models=flow_models, first="flux-a", **start)
    with server:
        yield Flowing(server)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, webui_host: Host) -> str:
    if request.param not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no {request.param}")
    return request.param


def alone(co: str, **main: Any) -> dict[str, Any]:
    return settings(slot(co, gamma=1, eta=0), **{"eta": 0, "steps": STEPS, **main})


def same(checkpoint: str, **main: Any) -> dict[str, Any]:
    return settings(slot(checkpoint, gamma=0.5, eta=0), **{"eta": 0, "steps": STEPS, **main})


@pytest.mark.parametrize("cfg", [1, 3])
def test_the_main_checkpoint_as_its_own_co_model(flowing: Flowing, family: str, cfg: int) -> None:
    main = f"{family}-a"
    plain = flowing.plain(main, cfg_scale=cfg).latent
    assert np.isfinite(plain).all() and plain.std() > 0.1
    for checkpoint in ("main", main):
        for evaluations in (0, 2):
            drawn = flowing.of(main, same(checkpoint, evaluations=evaluations), cfg_scale=cfg)
            assert distance(drawn.latent, plain) < CLOSE * max(1, np.abs(plain).max()), (checkpoint, evaluations)


def test_a_co_model_alone_is_its_own_picture(flowing: Flowing, family: str) -> None:
    main, co = f"{family}-a", f"{family}-b"
    own, plain = flowing.plain(co).latent, flowing.plain(main).latent
    drawn = flowing.of(main, alone(co)).latent
    assert distance(own, plain) > 0.05
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())


def test_by_default_it_is_another_picture_and_twice_the_same(flowing: Flowing, family: str) -> None:
    main, defaults = f"{family}-a", {"enabled": True, "co_models": [slot(f"{family}-b")]}
    first, second = flowing.of(main, defaults), flowing.of(main, defaults)
    assert np.isfinite(first.latent).all()
    assert distance(first.latent, flowing.plain(main).latent) > 0.01
    assert distance(first.latent, second.latent) == 0
    assert f"{family}-b" in first.infotext


def test_afterwards_the_main_model_draws_as_before(flowing: Flowing, family: str) -> None:
    main = f"{family}-a"
    plain = flowing.plain(main)
    flowing.of(main, settings(slot(f"{family}-b", prompt="a blue circle"), eta=0.2))
    assert np.array_equal(flowing.of(main).picture, plain.picture)


def test_only_the_network_of_a_co_model_is_kept(flowing: Flowing, family: str) -> None:
    """The text encoder, the larger part of most, is the main model's."""
    flowing.unload()
    flowing.of(f"{family}-a", settings(slot(f"{family}-b")))
    loaded = flowing.server.call("/amdm/v1/models")["loaded"]
    kept = {without_hash(entry["checkpoint"]): entry["bytes"] for entry in loaded}
    file = flowing.server.checkpoint_folder / f"{family}-b.safetensors"
    # the host computes in float32 on a CPU, and files are of half precision
    assert 0 < kept[file.name] <= 2.1 * file.resolve().stat().st_size + MEGABYTE


@pytest.mark.parametrize(("main", "co", "shift"), ACROSS)
def test_families_of_the_same_latents_go_together(
    flowing: Flowing, webui_host: Host, main: str, co: str, shift: float
) -> None:
    if not {main, co} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both {main} and {co}")
    main, co = f"{main}-a", f"{co}-b"
    both = {"distilled_cfg_scale": shift}
    own = flowing.plain(co, main, **both).latent
    drawn = flowing.of(main, alone(co), beside=co, **both).latent
    assert distance(own, flowing.plain(main, co, **both).latent) > 0.05
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())


@pytest.mark.parametrize(
    ("main", "co"),
    [("flux", "lumina"), ("lumina", "chroma"), ("zimage", "chroma"), ("qwen", "anima"), ("krea", "anima")],
)
def test_a_text_encoder_that_nobody_chose_is_asked_for(flowing: Flowing, webui_host: Host, main: str, co: str) -> None:
    if not {main, co} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both {main} and {co}")
    failed = flowing.fail(settings(slot(f"{co}-b")), **asked(f"{main}-a", "", {}))
    assert f'AMDM co-model 1: "{co}-b.safetensors" has no text encoder' in failed.message
    assert "VAE / Text Encoder" in failed.message
    assert np.array_equal(flowing.of(f"{main}-a").picture, flowing.plain(f"{main}-a").picture)


APART = (
    *(
        ("flux", "qwen"),
        ("qwen", "flux"),
        ("klein", "flux"),
        ("flux", "klein"),
        ("zimage", "anima"),
        ("anima", "lumina"),
    ),
    *(
        ("krea", "chroma"),
        ("flux", "rectified"),
        ("rectified", "anima"),
        ("mugen", "rectified"),
        ("rectified", "mugen"),
    ),
    *(
        ("flux", "ernie"),
        ("ernie", "anima"),
        ("wan", "flux"),
        ("flux", "wan"),
    ),
    *(
        ("mugen", "flux"),
        ("mugen", "qwen"),
        ("qwen", "mugen"),
        ("lumina", "anima"),
        ("klein", "zimage"),
    ),
)
"""Families of different latents."""


def through_pixels(co: str, **more: Any) -> dict[str, Any]:
    """A slot with the files that its own lacks; its pictures are as large as the main model's."""
    modules = [module.rpartition("/")[2] for module in FAMILIES[co].modules]
    return slot(f"{co}-b", size=0, modules=", ".join(modules), **more)


@pytest.mark.parametrize(("main", "co"), APART)
def test_families_of_different_latents_go_through_pixels(
    flowing: Flowing, webui_host: Host, main: str, co: str
) -> None:
    if not {main, co} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both {main} and {co}")
    plain = flowing.plain(f"{main}-a")
    mixed = settings(through_pixels(co), eta=0, steps=3, evaluations=2)
    first, second = flowing.of(f"{main}-a", mixed), flowing.of(f"{main}-a", mixed)
    assert np.isfinite(first.latent).all() and distance(first.latent, plain.latent) > 0.01
    assert distance(first.latent, second.latent) == 0
    assert f"2 evaluations of {co}-b" in first.infotext and "8 VAE calls" in first.infotext
    assert second.report["opened"] == []
    silent = settings(through_pixels(co, gamma=0), eta=0, steps=3)
    assert np.array_equal(flowing.of(f"{main}-a", silent).picture, plain.picture)
    assert np.array_equal(flowing.of(f"{main}-a").picture, plain.picture)


def test_a_vae_that_nobody_named_is_asked_for(flowing: Flowing, webui_host: Host) -> None:
    if not {"flux", "klein"} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both flux and klein")
    texts = {**through_pixels("klein"), "modules": "flow-qwen3-klein.safetensors"}
    failed = flowing.fail(settings(texts), **asked("flux-a", "", {}))
    assert "klein-b.safetensors" in failed.message and "no VAE in it" in failed.message
    lost = flowing.fail(settings({**texts, "modules": "lost.safetensors"}), **asked("flux-a", "", {}))
    assert '"lost.safetensors" is not in the WebUI\'s list "VAE / Text Encoder"' in lost.message


@pytest.fixture
def plain_sdxl(flowing: Flowing) -> Iterator[str]:
    """A checkpoint that the host takes for an eps model: the same weights without the word in its name."""
    folder = flowing.server.checkpoint_folder
    path = folder / f"{SDXL}.safetensors"
    eps = folder / "plain-b.safetensors"
    eps.symlink_to(path.resolve())
    flowing.server.refresh_checkpoints()
    yield eps.stem
    eps.unlink()
    flowing.server.refresh_checkpoints()


@pytest.mark.parametrize("main_is_flow", [True, False])
@pytest.mark.parametrize("other", ["flux", "chroma", "anima", "zimage", "klein", "mugen"])
def test_an_eps_sdxl_and_a_flow_model_of_other_latents_go_through_pixels(
    flowing: Flowing, plain_sdxl: str, webui_host: Host, other: str, main_is_flow: bool
) -> None:
    if other not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no {other}")
    main, co = (f"{other}-a", slot(plain_sdxl, size=0)) if main_is_flow else (plain_sdxl, through_pixels(other))
    plain = flowing.of(main)
    mixed = settings(co, eta=0, steps=3, evaluations=2)
    first, second = flowing.of(main, mixed), flowing.of(main, mixed)
    assert np.isfinite(first.latent).all() and distance(first.latent, plain.latent) > 0.01
    assert distance(first.latent, second.latent) == 0
    assert "8 VAE calls" in first.infotext
    assert np.array_equal(flowing.of(main).picture, plain.picture)


@pytest.mark.parametrize("main_is_flow", [True, False])
def test_eps_and_rectified_sdxl_go_together(
    flowing: Flowing, plain_sdxl: str, webui_host: Host, main_is_flow: bool
) -> None:
    if "rectified" not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no rectified SDXL")
    main, co = ("rectified-a", plain_sdxl) if main_is_flow else (plain_sdxl, "rectified-a")
    request = {"checkpoint": main, "steps": STEPS, "scheduler": "Simple"}
    plain = flowing.draw(None, **request)
    mixed = settings(slot(co), evaluations=2, steps=3)
    first, second = flowing.draw(mixed, **request), flowing.draw(mixed, **request)
    assert np.isfinite(first.latent).all()
    assert 0.01 < distance(first.latent, plain.latent) < 10 * np.abs(plain.latent).max()
    assert distance(first.latent, second.latent) == 0
    assert distance(flowing.draw(None, **request).latent, plain.latent) == 0


def test_a_picture_after_references_is_refused(flowing: Flowing, webui_host: Host) -> None:
    """Klein draws img2img after the picture itself, as a reference."""
    if "klein" not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no klein")
    init = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    from_picture = asked("klein-a", "", {"init": init, "denoising_strength": 0.7})
    plain = flowing.draw(None, **from_picture).picture
    failed = flowing.fail(settings(slot("klein-b")), **from_picture)
    assert '"klein-a.safetensors" draws by reference pictures' in failed.message
    assert '"klein-b.safetensors"' in failed.message
    assert failed.report["denoiser"] == 0
    assert np.array_equal(flowing.draw(None, **from_picture).picture, plain)


def test_a_video_is_refused_and_one_frame_is_not(flowing: Flowing, webui_host: Host) -> None:
    """Wan draws as many frames as the batch size says: five are the first that need more than one latent."""
    if "wan" not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no wan")
    mixed = settings(slot("wan-b"), evaluations=2)
    failed = flowing.fail(mixed, **asked("wan-a", "", {"batch_size": 5}))
    assert '"wan-a.safetensors" draws a video, which cannot be run together with "wan-b.safetensors"' in failed.message
    assert failed.report["denoiser"] == 0
    drawn = flowing.of("wan-a", mixed)
    assert drawn.latent.shape[-3] == 1 and np.isfinite(drawn.latent).all()
    assert distance(drawn.latent, flowing.plain("wan-a").latent) > 0.01


def test_a_further_wan_leaves_the_shift_for_a_refiner(flowing: Flowing, webui_host: Host) -> None:
    """The host's Wan notes the main model's shift for the next Wan that is loaded."""
    if "wan" not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no wan")
    flowing.unload()
    flowing.of("wan-a", settings(slot("wan-b", prompt="a blue circle")), distilled_cfg_scale=2.5)
    assert flowing.snapshot()["shift for a refiner"] == 2.5


@pytest.mark.parametrize(("family", "name"), [("flux", "flux-kontext"), ("qwen", "qwen-edit")])
def test_an_edit_model_without_references_draws_its_text(
    flowing: Flowing, webui_host: Host, family: str, name: str
) -> None:
    """The host knows such a model by its file's name alone."""
    if webui_host.name != "neo":
        pytest.skip(f"{webui_host.name} has no edit models")
    folder = flowing.server.checkpoint_folder
    (folder / f"{name}.safetensors").symlink_to((folder / f"{family}-b.safetensors").resolve())
    flowing.server.refresh_checkpoints()
    own, main = flowing.of(name).latent, f"{family}-a"
    drawn = flowing.of(main, alone(name)).latent
    assert distance(own, flowing.plain(main).latent) > 0.05
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())


def test_a_co_model_with_a_scale_of_its_own_beside_a_main_model_without_guidance(flowing: Flowing) -> None:
    """At CFG 1 the host encodes no negative prompt; the slot's is its own."""
    own = flowing.of("flux-b", negative_prompt="red", cfg_scale=3).latent
    co = slot("flux-b", gamma=1, eta=0, cfg_scale=3, negative_prompt="red")
    drawn = flowing.of("flux-a", settings(co, eta=0, steps=STEPS), cfg_scale=1).latent
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())


def test_a_slots_prompt_and_distilled_guidance_reach_its_model(flowing: Flowing) -> None:
    words: dict[str, Any] = {"prompt": "a blue circle on a hill", "distilled_cfg_scale": 6}
    own = flowing.of("flux-b", **words).latent
    co = slot("flux-b", gamma=1, eta=0, prompt=words["prompt"])
    drawn = flowing.of("flux-a", settings(co, eta=0, steps=STEPS), distilled_cfg_scale=6).latent
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())
    other = flowing.of("flux-a", settings(co, eta=0, steps=STEPS), distilled_cfg_scale=2).latent
    assert distance(drawn, other) > 0.01


@pytest.fixture(scope="module")
def lora(flowing: Flowing, family: str) -> str:
    """The name of a LoRA on every attention of a family's network, strong enough to change a picture."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    name, random = f"lora-{family}", np.random.default_rng(1)
    folder = Path(flowing.server.data) / "models" / "Lora"
    folder.mkdir(exist_ok=True)
    tensors = {}
    with safe_open(flowing.server.checkpoint_folder / f"{family}-b.safetensors", "pt") as weights:
        for key in weights.keys():  # noqa: SIM118 -- this is no dictionary
            prefix = FAMILIES[family].prefix
            shape = weights.get_slice(key).get_shape()
            if key.startswith(prefix) and "att" in key and key.endswith(".weight") and len(shape) == 2:
                layer = f"diffusion_model.{key.removeprefix(prefix).removesuffix('.weight')}"
                rows, columns = shape
                tensors[f"{layer}.lora_A.weight"] = random.normal(0, columns**-0.5, (2, columns)).astype(np.float32)
                tensors[f"{layer}.lora_B.weight"] = random.normal(0, 0.7, (rows, 2)).astype(np.float32)
    save_file(tensors, folder / f"{name}.safetensors")
    flowing.server.call("/sdapi/v1/refresh-loras", {})
    return name


def test_a_slots_lora_is_what_the_webui_makes_of_it_and_stays_there(flowing: Flowing, family: str, lora: str) -> None:
    main, co = f"{family}-a", f"{family}-b"
    words = f"a red square <lora:{lora}:0.8>"
    own, bare, plain = flowing.of(co, prompt=words).latent, flowing.plain(co).latent, flowing.plain(main)
    assert distance(own, bare) > 0.01
    drawn = flowing.of(main, settings(slot(co, gamma=1, eta=0, prompt=words), eta=0, steps=STEPS)).latent
    assert distance(drawn, own) < 1e-3 * max(1, np.abs(own).max())
    assert np.array_equal(flowing.of(main).picture, plain.picture)


def test_the_main_prompts_lora_never_reaches_a_co_model(flowing: Flowing, family: str, lora: str) -> None:
    main, co = f"{family}-a", f"{family}-b"
    bare = flowing.plain(co).latent
    only = settings(slot(co, gamma=1, eta=0, prompt="a red square"), eta=0, steps=STEPS)
    drawn = flowing.of(main, only, prompt=f"a red square <lora:{lora}:0.8>").latent
    assert distance(drawn, bare) < 1e-3 * max(1, np.abs(bare).max())


@pytest.fixture(scope="module", params=["fp8", "gguf"])
def in_low_bits(request: pytest.FixtureRequest, flowing: Flowing) -> str:
    """The name of a file with flux-b's weights in low bits."""
    folder = flowing.server.checkpoint_folder
    name = LOW_BITS[request.param](folder / "flux-b.safetensors", folder)
    flowing.server.call("/sdapi/v1/refresh-checkpoints", {})
    return name


def as_fp8(source: Path, folder: Path) -> str:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(source)
    eight = {key: value.to(torch.float8_e4m3fn) if value.ndim == 2 else value for key, value in weights.items()}
    save_file(eight, folder / "flux-fp8.safetensors")
    return "flux-fp8.safetensors"


def as_gguf(source: Path, folder: Path) -> str:
    import gguf
    from safetensors.torch import load_file

    def packed(value: Any) -> tuple[np.ndarray, Any]:
        packs = value.ndim == 2 and value.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if packs else gguf.GGMLQuantizationType.F32
        return gguf.quantize(value.float().numpy(), kind), kind

    prefix = FAMILIES["flux"].prefix
    tensors = ((key.removeprefix(prefix), *packed(value)) for key, value in load_file(source).items())
    return write_gguf(folder / "flux-q8.gguf", "flux", tensors).name


LOW_BITS = {"fp8": as_fp8, "gguf": as_gguf}


def test_files_in_low_bits(flowing: Flowing, in_low_bits: str) -> None:
    assert str(family_in(flowing.server.checkpoint_folder / in_low_bits)) == "Flux"
    main = in_low_bits.partition(".")[0]
    own, full = flowing.plain(main).latent, flowing.plain("flux-b").latent
    assert distance(own, full) > 0
    drawn = flowing.of("flux-a", alone(in_low_bits)).latent
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())
    mirror = flowing.of(main, same(in_low_bits)).latent
    assert distance(mirror, own) < CLOSE * max(1, np.abs(own).max())
    other = flowing.of(main, alone("flux-b")).latent
    assert distance(other, full) < CLOSE * max(1, np.abs(full).max())


@pytest.mark.parametrize("masked", [False, True], ids=["img2img", "inpainting"])
@pytest.mark.parametrize("name", ["flux", "wan"])
def test_from_a_picture(flowing: Flowing, webui_host: Host, name: str, masked: bool) -> None:
    if name not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no {name}")
    main, co = f"{name}-a", f"{name}-b"
    init = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    more: dict[str, Any] = {"denoising_strength": 0.7, "init": init}
    if masked:
        mask: np.ndarray = np.zeros((64, 64, 3), dtype=np.uint8)
        mask[:, :32] = 255
        more |= {"mask": mask, "mask_blur": 0, "inpainting_fill": 1}
    plain = flowing.draw(None, **asked(main, "", more)).latent
    mirror = flowing.draw(same(main), **asked(main, "", more)).latent
    assert distance(mirror, plain) < CLOSE * max(1, np.abs(plain).max())
    own = flowing.draw(None, **asked(co, "", more)).latent
    drawn = flowing.draw(alone(co), **asked(main, "", more)).latent
    assert distance(drawn, own) < CLOSE * max(1, np.abs(own).max())


@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "UniPC"])
def test_samplers_by_timesteps_are_refused_by_name(flowing: Flowing, webui_host: Host, sampler: str) -> None:
    if sampler == "UniPC" and webui_host.name == "neo":
        pytest.skip("Forge Neo's UniPC goes by noise levels")
    failed = flowing.fail(settings(slot("flux-b")), **asked("flux-a", "", {"sampler_name": sampler}))
    assert f'"{sampler}" uses timesteps' in failed.message and "flux-a.safetensors" in failed.message
    assert failed.report["denoiser"] == 0


SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "Heun", "DPM2", "LMS", "LCM")


@pytest.mark.parametrize("sampler", [*SAMPLERS, "DPM++ 3M SDE", "ER SDE", "Res Multistep", "UniPC", "DPM++ 2s a RF"])
def test_the_main_checkpoint_as_its_own_co_model_with_every_sampler(
    flowing: Flowing, webui_host: Host, sampler: str
) -> None:
    if sampler not in {each["name"] for each in flowing.server.call("/sdapi/v1/samplers")}:
        pytest.skip(f"{webui_host.name} has no {sampler}")
    if sampler == "UniPC" and webui_host.name != "neo":
        pytest.skip("it uses timesteps here")
    more: dict[str, Any] = {"sampler_name": sampler, "steps": 6}
    plain = flowing.of("schnell-a", **more).latent
    drawn = flowing.of("schnell-a", same("schnell-a", steps=6), **more).latent
    if not np.isfinite(plain).all():
        pytest.skip("the host draws nothing but NaN")
    assert distance(drawn, plain) < CLOSE * max(1, np.abs(plain).max())


def test_off_is_the_bare_webui(
    webui_host: Host, flow_models: Path, tmp_path_factory: pytest.TempPathFactory, flowing: Flowing
) -> None:
    folder = tmp_path_factory.mktemp("bare")
    server = FlowWebUI(webui_host, folder, models=flow_models, first="flux-a", probe=True, options=OPTIONS)
    with server:
        bare = Flowing(server)
        for name in webui_host.flow_families:
            picture = flowing.of(f"{name}-a", settings(enabled=False)).picture
            assert np.array_equal(bare.of(f"{name}-a").picture, picture), name


@pytest.mark.parametrize(("main", "co"), [("flux", "klein"), ("klein", "flux")])
def test_a_comparison_draws_a_co_model_of_other_latents_with_its_own_files(
    flowing: Flowing, webui_host: Host, main: str, co: str
) -> None:
    if not {main, co} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both {main} and {co}")
    own = [flowing.plain(checkpoint).picture for checkpoint in (f"{main}-a", f"{co}-b")]
    drawn = flowing.of(f"{main}-a", settings(through_pixels(co), eta=0, steps=3, evaluations=2, compare=True))
    assert len(drawn.pixels) == 4, drawn.comments
    assert all(np.array_equal(*pair) for pair in zip(drawn.pixels[2:], own, strict=True))
    assert np.array_equal(flowing.of(f"{main}-a").picture, own[0])


@pytest.mark.parametrize(("main", "co"), [("flux", "klein"), ("klein", "flux")])
def test_small_autoencoders_of_flux_and_flux_2(flowing: Flowing, webui_host: Host, main: str, co: str) -> None:
    if not {main, co} <= set(webui_host.flow_families):
        pytest.skip(f"{webui_host.name} has not both {main} and {co}")
    folder = flowing.server.data / "models" / "VAE-taesd"
    files = [file for name, channels in (("taef1", 16), ("taef2", 32)) for file in write(folder, name, channels)]
    mixed, option = settings(through_pixels(co), eta=0, steps=3, evaluations=2), {"amdm_small_autoencoders": True}
    try:
        full = flowing.of(f"{main}-a", mixed)
        small, again = (flowing.with_options(option, lambda: flowing.of(f"{main}-a", mixed)) for _ in range(2))
    finally:
        for file in files:
            file.unlink()
    assert {file.name for file in files} <= set(small.report["opened"])
    assert np.isfinite(small.latent).all() and distance(small.latent, full.latent) > 0.01
    assert distance(small.latent, again.latent) == 0 and "8 VAE calls" in small.infotext


def test_a_host_that_always_works_in_tiles_makes_the_pictures_between_models_of_tiles(
    webui_host: Host, flow_models: Path, tmp_path_factory: pytest.TempPathFactory, flowing: Flowing
) -> None:
    if webui_host.name != "neo":
        pytest.skip(f"{webui_host.name} has a script for it")
    wide: dict[str, Any] = {"width": 1280, "height": 64}
    mixed = settings(through_pixels("klein"), eta=0, steps=2, evaluations=1)
    plain, whole = flowing.of("flux-a", **wide), flowing.of("flux-a", mixed, **wide)
    of_server: dict[str, Any] = {"probe": True, "extension": REPOSITORY, "options": OPTIONS}
    folder = tmp_path_factory.mktemp("tiled")
    never_oom = ["--neveroom"]
    server = FlowWebUI(webui_host, folder, models=flow_models, first="flux-a", arguments=never_oom, **of_server)
    with server:
        there = Flowing(server)
        assert distance(there.of("flux-a", **wide).latent, plain.latent) == 0
        tiled = there.of("flux-a", mixed, **wide)
    assert "4 VAE calls" in tiled.infotext and "4 VAE calls" in whole.infotext
    apart = distance(whole.latent, plain.latent)
    assert 0 < distance(tiled.latent, whole.latent) < apart
