"""Other people's extensions beside AMDM: the pictures of the main model, and of "main" as a co-model, stay its own.

`AMDM_NEIGHBOURS_DIR` names a folder with such extensions, in folders of these names; a test is skipped without its
extension. `AMDM_NEIGHBOURS_PYTHON` names a folder with the packages that they need.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from .conftest import REPOSITORY
from .hosts import Host
from .probed import OPTIONS, STEPS, Probed, mirrored, settings, slot
from .test_features import CLOSE, VISIBLE, off
from .webui_server import WebUI


class Neighbour(NamedTuple):
    """An extension at work."""

    title: str
    """Its name as a script."""
    arguments: tuple[Any, ...]
    folders: tuple[str, ...]
    request: Mapping[str, Any] = MappingProxyType({})
    on_main_alone: bool = False
    """True if it changes what the sampler calls, and so not "main" as a co-model."""


REGIONS = (
    *(True, False, "Matrix", "Columns", "Mask", "Prompt", "1,1", "", False, False, False),
    *("Attention", "", "0", "0", "0", "", "0", "0", False),
)
TILES = (True, "MultiDiffusion", False, True, 256, 128, 16, 16, 8, 1, "None", 2, False, 10, 1, 1, 64, False, False)
COUPLES: tuple[Any, ...] = (True, False, "Basic", "", "Horizontal", "None", 0.5, [], "off", False, False)
NEIGHBOURS = {
    "regions": Neighbour(
        "Regional Prompter",
        REGIONS,
        ("sd-webui-regional-prompter",),
        {"prompt": "a red square BREAK a blue circle"},
    ),
    "tiles": Neighbour(
        "Tiled Diffusion", TILES, ("multidiffusion-upscaler-for-automatic1111",), {"width": 256, "height": 128}, True
    ),
    "thresholding": Neighbour(
        "Dynamic Thresholding (CFG Scale Fix)",
        (True, 7, 90, "Constant", 0, "Half Cosine Up", 0, 4, True, "MEAN", "AD", 0.7),
        ("sd-dynamic-thresholding",),
        {"cfg_scale": 9},
        on_main_alone=True,
    ),
    "couples": Neighbour(
        "Forge Couple", COUPLES, ("sd-forge-couple",), {"prompt": "a red square on the left\na blue circle"}
    ),
    "step cache": Neighbour(
        "First Block Cache / TeaCache", (True, "TeaCache", 1, 1.0, 0, False), ("sd-forge-blockcache",)
    ),
    "perturbed attention": Neighbour(
        "Perturbed-Attention Guidance",
        (True, 3, 0, "full", 0, "middle", 0, "", False, 7, 3, 0, "full", 0, -1, -1),
        ("sd-perturbed-attention",),
    ),
}
DETAILER = ("adetailer", "aadetailer-neoforge")
FACE = "skimage/data/astronaut.png"
"""A photograph with a face, which a package that A1111 needs has."""
DYNAMIC_PROMPTS = ("sd-dynamic-prompts", "sd-dynamic-prompts_neo")


def test_every_built_in_extension_is_in_the_table(webui_host: Host) -> None:
    directory = webui_host.directory()
    assert directory is not None
    page = (REPOSITORY / "docs" / "neighbours.md").read_text(encoding="utf-8")
    patterns = re.sub(r"[`|,()]", " ", page).split()
    built_in = [each.name for each in (directory / "extensions-builtin").iterdir() if each.is_dir()]
    assert built_in
    assert [name for name in built_in if not any(fnmatch(name, pattern) for pattern in patterns)] == []


class WithNeighbours(WebUI):
    """A server with every extension of the folder."""

    def __init__(self, host: Host, data: Path, neighbours: Path, **told: Any) -> None:
        super().__init__(host, data, **told)
        for extension in sorted(neighbours.iterdir()):
            self._link_extension(extension.name, extension)


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
def test_the_main_models_picture_is_its_own(among: Probed, name: str) -> None:
    neighbour = NEIGHBOURS[name]
    installed(among, *neighbour.folders)
    scripts = {"alwayson_scripts": {neighbour.title: {"args": [*neighbour.arguments]}}}
    bare = among.draw(**neighbour.request).latent
    alone = among.draw(**neighbour.request, **scripts).latent
    assert off(bare, alone) > VISIBLE, "the neighbour changes nothing"
    quiet = settings(slot("main", gamma=1e-6, eta=0), eta=0, steps=STEPS)
    assert off(among.draw(quiet, **neighbour.request, **scripts).latent, alone) < CLOSE
    mirror = among.draw(mirrored("main"), **neighbour.request, **scripts).latent
    assert (off(mirror, alone) < CLOSE) == (not neighbour.on_main_alone)
    other = among.draw(settings(slot("beta"), steps=STEPS), **neighbour.request, **scripts)
    assert np.isfinite(other.latent).all() and off(other.latent, alone) > VISIBLE
    assert off(among.draw(**neighbour.request).latent, bare) == 0


def test_each_picture_has_the_text_that_dynamic_prompts_made_of_it(among: Probed) -> None:
    installed(among, *DYNAMIC_PROMPTS)
    # its name has its version in it
    titles = among.server.call("/sdapi/v1/scripts")["txt2img"]
    title = next(title for title in titles if title.startswith("dynamic prompts"))
    scripts = {"alwayson_scripts": {title: {"args": [True]}}}
    told = settings(slot("beta", prompt="{prompt}, round"))
    drawn = among.draw(told, prompt="a {red|green|blue|white} {square|circle}", batch_size=2, n_iter=2, **scripts)
    prompts, seeds = drawn.info["all_prompts"], drawn.info["all_seeds"]
    assert len(set(prompts)) > 1 and not any("{" in prompt for prompt in prompts)
    singles = [among.draw(told, prompt=prompt, seed=seed).latent for prompt, seed in zip(prompts, seeds)]
    assert off(np.concatenate(drawn.latents), np.concatenate(singles)) < CLOSE


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
