"""Other people's extensions beside AMDM: the models that each acts on.

`AMDM_NEIGHBOURS_DIR` names a folder with such extensions, in folders of these names; a test is skipped without its
extension. `AMDM_NEIGHBOURS_PYTHON` names a folder with the packages that they need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from .conftest import REPOSITORY
from .control_files import control_adapter, control_net
from .hosts import EVERY, MAIN, SAMPLER, Effect, Host
from .probed import OPTIONS, Probed, settings, slot
from .test_built_in import STEPS, acts_as_said, having
from .test_features import CLOSE, VISIBLE, off, ramp
from .test_networks import loras
from .webui_server import WebUI, encode_picture


class Neighbour(NamedTuple):
    """An extension in folders of these names, at work."""

    effect: Effect
    folders: tuple[str, ...]


REGIONS = (
    *(True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "", False, False, False),
    *("Attention", "", "0", "0", "0", "", "0", "0", False),
)
TILES = (True, "MultiDiffusion", False, True, 256, 128, 16, 16, 8, 1, "None", 2, False, 10, 1, 1, 64, False, False)
COUPLES: tuple[Any, ...] = (True, False, "Basic", "", "Horizontal", "None", 0.5, [], "off", False, False)
FREE_U_STAGES = (1.2, 0.8, 0, 1, 0, 1) * 3
PERTURBED = (True, 3, 0, "full", 0, "middle", 0, "", False, 7, 3, 0, "full", 0, -1, -1)
NEIGHBOURS = {
    "regions": Neighbour(
        Effect("Regional Prompter", REGIONS, MAIN, {"prompt": "a red square BREAK a blue circle"}),
        ("sd-webui-regional-prompter",),
    ),
    "tiles": Neighbour(
        Effect("Tiled Diffusion", TILES, SAMPLER, {"width": 256, "height": 128}),
        ("multidiffusion-upscaler-for-automatic1111",),
    ),
    "thresholding": Neighbour(
        Effect(
            "Dynamic Thresholding (CFG Scale Fix)",
            (True, 7, 90, "Constant", 0, "Half Cosine Up", 0, 4, True, "MEAN", "AD", 0.7),
            SAMPLER,
            {"cfg_scale": 9},
        ),
        ("sd-dynamic-thresholding",),
    ),
    "couples": Neighbour(
        Effect("Forge Couple", COUPLES, MAIN, {"prompt": "a red square on the left\na blue circle"}),
        ("sd-forge-couple",),
    ),
    "step cache": Neighbour(
        Effect("First Block Cache / TeaCache", (True, "TeaCache", 1, 1.0, 0, False)), ("sd-forge-blockcache",)
    ),
    "perturbed attention": Neighbour(Effect("Perturbed-Attention Guidance", PERTURBED), ("sd-perturbed-attention",)),
    "NAG by attention": Neighbour(Effect("NAGuidance", (True, 5, 0.5, 1.5), MAIN), ("sd-webui-NAGuidance",)),
    "NAG by guidance": Neighbour(
        Effect("NAG - Normalized Attention Guidance", (True, 3, "L2", 1.5, "middle", 0, 0, 1, False)),
        ("sd-forge-nag",),
    ),
}
DETAILER = ("adetailer", "aadetailer-neoforge")
FACE = "skimage/data/astronaut.png"
"""A photograph with a face, which a package that A1111 needs has."""
FIRST, CONTROL = "alpha.safetensors", "control"
CONTROLNET = "sd-webui-controlnet"
WILDCARDS = "stable-diffusion-webui-wildcards"
DYNAMIC_PROMPTS = ("sd-dynamic-prompts", "sd-dynamic-prompts_neo")


class WithNeighbours(WebUI):
    """A server with every extension of the folder, and a model of ControlNet."""

    def __init__(self, host: Host, data: Path, neighbours: Path, **told: Any) -> None:
        super().__init__(host, data, **told)
        for extension in sorted(neighbours.iterdir()):
            self._link_extension(extension.name, extension)
        of_model = control_adapter(32) if host.sizes == "small" else control_net(self.checkpoint_folder / FIRST)
        folder = data / "models" / "ControlNet"
        folder.mkdir(parents=True)
        save_file(of_model, folder / f"{CONTROL}.safetensors")


@pytest.fixture(scope="module")
def among(webui_host: Host, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    named = os.environ.get("AMDM_NEIGHBOURS_DIR", "")
    if not named:
        pytest.skip("AMDM_NEIGHBOURS_DIR does not name a folder")
    packages = {"PYTHONPATH": os.environ.get("AMDM_NEIGHBOURS_PYTHON", "")}
    told: dict[str, Any] = {
        "checkpoints": checkpoint_dir,
        "extension": REPOSITORY,
        "probe": True,
        "options": OPTIONS,
        "page": True,
    }
    with WithNeighbours(
        webui_host, tmp_path_factory.mktemp("neighbours"), Path(named), environment=packages, **told
    ) as server:
        yield Probed(server)


def installed(probed: Probed, *folders: str) -> None:
    if not any((probed.server.data / "extensions" / name).exists() for name in folders):
        pytest.skip(f"AMDM_NEIGHBOURS_DIR has none of {', '.join(folders)}")


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_an_extension_acts_on_what_the_table_says(among: Probed, name: str) -> None:
    effect, folders = NEIGHBOURS[name]
    installed(among, *folders)
    acts_as_said(among, effect)


# it counts a step when the main model has been evaluated, before the co-models are
@pytest.mark.parametrize(
    ("until", "acts_on", "mixed"), [(1, EVERY, STEPS - 1), (1 / STEPS, SAMPLER, STEPS)], ids=["all steps", "the first"]
)
def test_freeu_acts_on_co_models_one_step_early(
    among: Probed, deeper: Path, until: float, acts_on: str, mixed: int
) -> None:
    installed(among, "sd-webui-freeu")
    arguments = (True, 0, until + 0.01, 0, "Version 2", *FREE_U_STAGES)
    with having(among, deeper, "deeper"):
        acts_as_said(among, Effect("FreeU", arguments, acts_on, {"checkpoint": "deeper"}), mixed)


EXPANDED = "a __amdm-colours__ __amdm-shapes__"
WORDS = {"amdm-colours": ("red", "green", "blue", "white"), "amdm-shapes": ("square", "circle")}


def dynamic_prompts(probed: Probed) -> str:
    """The name of Dynamic Prompts as a script, which has its version in it; "" without it."""
    titles = probed.server.call("/sdapi/v1/scripts")["txt2img"]
    return next((title for title in titles if title.startswith("dynamic prompts")), "")


def of_dynamic_prompts(probed: Probed) -> dict[str, Any]:
    installed(probed, *DYNAMIC_PROMPTS)
    return {
        "prompt": "a {red|green|blue|white} {square|circle}",
        "alwayson_scripts": {dynamic_prompts(probed): {"args": [True]}},
    }


def of_wildcards(probed: Probed) -> dict[str, Any]:
    installed(probed, WILDCARDS)
    folder = probed.server.data / "extensions" / WILDCARDS / "wildcards"
    if folder.is_symlink():
        folder.unlink()
        folder.mkdir()
        for name, words in WORDS.items():
            (folder / f"{name}.txt").write_text("\n".join(words))
    other = dynamic_prompts(probed)
    return {"prompt": EXPANDED, "alwayson_scripts": {other: {"args": [False]}} if other else {}}


@pytest.mark.parametrize("request_of", [of_dynamic_prompts, of_wildcards], ids=["Dynamic Prompts", "Wildcards"])
def test_each_picture_has_the_text_that_was_made_of_it(
    among: Probed, request_of: Callable[[Probed], dict[str, Any]]
) -> None:
    request = request_of(among)
    told = settings(slot("beta", prompt="{prompt}, round"), slot("gamma"))
    drawn = among.draw(told, batch_size=2, n_iter=2, **request)
    prompts, seeds = drawn.info["all_prompts"], drawn.info["all_seeds"]
    assert len(set(prompts)) > 1 and not any(mark in prompt for prompt in prompts for mark in ("{", "__"))
    singles = [among.draw(told, prompt=prompt, seed=seed).latent for prompt, seed in zip(prompts, seeds)]
    assert off(np.concatenate(drawn.latents), np.concatenate(singles)) < CLOSE
    # a slot's own words stay as they are
    own = slot("beta", prompt=request["prompt"])
    with_it = among.draw(settings(own), **{**request, "prompt": "a cat"})
    others = {name: {"args": [False]} for name in request["alwayson_scripts"]}
    assert off(with_it.latent, among.draw(settings(own), prompt="a cat", alwayson_scripts=others).latent) == 0


WEIGHTED = "a red square <lora:strong:1:lbw=OUTALL>"


def test_block_weights_act_on_the_main_prompts_loras(among: Probed) -> None:
    installed(among, "sd-webui-lora-block-weight")
    with loras(among):
        whole, weighted = (among.draw(prompt=text).latent for text in (WEIGHTED.replace(":lbw=OUTALL", ""), WEIGHTED))
        assert off(weighted, whole) > VISIBLE
        acts_as_said(among, Effect("", (), MAIN, {"prompt": "a red square"}, {"prompt": WEIGHTED}))
        own, plain = (
            among.draw(settings(slot("beta", prompt=text))).latent
            for text in (WEIGHTED, WEIGHTED.replace(":lbw=OUTALL", ""))
        )
        assert off(own, plain) < CLOSE


@pytest.fixture
def control(among: Probed, webui_host: Host) -> dict[str, Any]:
    """A unit of ControlNet with a picture and a random model."""
    if webui_host.name == "a1111":
        installed(among, CONTROLNET)
        if webui_host.sizes != "small":
            pytest.skip("a UNet of one level has no place for the adapter")
    listed = among.server.call("/controlnet/model_list")["model_list"]
    name = next(name for name in listed if name.startswith(CONTROL))
    # the preprocessor's name has a capital letter in Forge and its relatives
    module = "none" if webui_host.name == "a1111" else "None"
    unit = {"enabled": True, "module": module, "model": name, "image": encode_picture(ramp())}
    return {**unit, "save_detected_map": False}


def test_controlnet_acts_on_the_main_model(among: Probed, control: dict[str, Any]) -> None:
    acts_as_said(among, Effect("ControlNet", (control,), MAIN))


@pytest.fixture
def face(webui_host: Host) -> np.ndarray:
    packages = Path(webui_host.python()).parent.parent / "lib"
    found = next(packages.glob(f"python*/site-packages/{FACE}"), None)
    if found is None:
        pytest.skip("the WebUI's Python has no picture of a face")
    return np.asarray(Image.open(found).convert("RGB"))


def test_a_face_that_adetailer_finds_is_drawn_with_the_co_models_if_the_pass_says_so(
    among: Probed, face: np.ndarray
) -> None:
    installed(among, *DETAILER)
    found = {"ad_model": "mediapipe_face_full", "ad_denoising_strength": 0.8}
    # the picture to start from is not drawn itself, so its face is found
    request = {
        "init": face,
        "width": 64,
        "height": 64,
        "alwayson_scripts": {"ADetailer": {"args": [True, True, found]}},
    }
    plain, by_default = (among.draw(amdm, **request) for amdm in (None, settings()))
    changed = np.abs(plain.picture.astype(int) - face).max(axis=-1) > 0
    _, xs = np.nonzero(changed)
    assert 0 < changed.mean() < 0.5, "ADetailer drew a part of the picture"
    assert off(by_default.picture, plain.picture) == 0
    drawn = among.draw(settings(**{"pass": "detailer"}), **request)
    assert off(drawn.picture, plain.picture) > VISIBLE
    assert (np.abs(drawn.picture.astype(int) - face).max(axis=-1) > 0)[~changed].mean() < 0.01
    assert "detail 1: 2 models, 2 of " in drawn.infotext and "AMDM pass: detailer" in drawn.infotext
    # the half of the picture with the face, and the other one
    middle = xs.mean() / face.shape[1]
    halves = [f"0 0 {middle + 0.3} 1", f"{middle + 0.3} 0 1 1"]
    here, elsewhere = (
        among.draw(settings(slot(region=half), **{"pass": "detailer"}), **request).picture for half in halves
    )
    assert off(here, plain.picture) > VISIBLE
    assert off(elsewhere, plain.picture) == 0
