"""Adapters on a real WebUI in the published files' sizes, on checkpoints of SD1.5's size.

AMDM_FULL_SIZE_DIR names a folder with 15 GB of room, where the files are made once; without it these are skipped. They
need some 16 GB of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_adapters import ACTION, BOXES

from lib_amdm.webui import presets

from . import full_size
from .conftest import REPOSITORY
from .full_size import ENCODER, GLIGEN, INTERACT, IP_ADAPTER, KINDS, MAIN, MIGC, OTHER, XL, XL_KINDS
from .hosts import Host
from .probed import OPTIONS, Probed, distance, slot
from .probed import settings as settings_of
from .test_adapters import picture
from .webui_server import WebUI

STEPS, K = 2, 1
PROMPT = "a red square"
FLOAT = 4
"""Bytes of a number on the CPU, where the WebUIs calculate in float32."""

SD15_UNET, CLIP_L = 859_520_964, 123_060_480
"""Parameters of Stable Diffusion 1.5's UNet and text encoder."""

EACH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folder() -> Path:
    if "AMDM_FULL_SIZE_DIR" not in os.environ:
        pytest.skip("AMDM_FULL_SIZE_DIR is not set: it names a folder for 15 GB of test files")
    return Path(os.environ["AMDM_FULL_SIZE_DIR"]).expanduser().resolve()


@contextmanager
def serving(
    host: Host, data: Path, checkpoints: Path, first: str, adapters: Path, names: Sequence[str]
) -> Iterator[Probed]:
    """A WebUI with these checkpoints, and of the adapter files those of these names."""
    models = data / "models" / "amdm"
    models.mkdir(parents=True)
    for name in names:
        (models / name).symlink_to(adapters / name)
    started: dict[str, Any] = {"extension": REPOSITORY, "probe": True, "options": OPTIONS}
    with WebUI(host, data, checkpoints=checkpoints, first_checkpoint=f"{first}.safetensors", **started) as server:
        yield Probed(server)


@pytest.fixture(scope="module")
def full(folder: Path, webui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """A WebUI with two checkpoints of SD1.5's size and an adapter file of each kind."""
    names = (*KINDS, ENCODER)
    checkpoints = full_size.checkpoints(folder / "checkpoints", webui_host, (MAIN, OTHER))
    adapters = full_size.adapters(folder / "adapters", names)
    with serving(webui_host, tmp_path_factory.mktemp("full"), checkpoints, MAIN, adapters, names) as probed:
        probed.draw(prompt=PROMPT, steps=STEPS)
        yield probed


@pytest.fixture(scope="module")
def bare(full: Probed) -> dict[str, np.ndarray]:
    """The pictures without an adapter: by the main model alone, and mixed with either checkpoint."""
    mixed = {name: full.draw(settings(slot(name)), prompt=PROMPT, steps=STEPS).latent for name in ("main", OTHER)}
    return {"alone": full.draw(prompt=PROMPT, steps=STEPS).latent, **mixed}


def settings(*slots: dict[str, Any], **main: Any) -> dict[str, Any]:
    return settings_of(*slots, steps=K, **main)


def adapter(kind: str, **told: Any) -> dict[str, Any]:
    needs = {"image": picture()} if kind.startswith("ip-") else {"layout": ACTION if kind == INTERACT else BOXES}
    return {"adapter": kind, **needs, **told}


def with_main(kind: str, **told: Any) -> dict[str, Any]:
    return {"enabled": True, "co_models": [], "main_adapter": adapter(kind, **told)}


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
def test_the_papers_runs(full: Probed, preset: presets.Preset) -> None:
    """As the preset has them, file names included. They come first: a process keeps memory that it has freed."""
    told = preset.settings.to_dict()
    for adapted in told["co_models"]:
        if adapted["adapter"] == IP_ADAPTER:
            adapted["image"] = picture()
    assert {each["adapter"] for each in (told["main_adapter"], *told["co_models"])} <= {INTERACT, MIGC, IP_ADAPTER}
    full.unload()
    before, first = full.snapshot(), full.server.memory
    drawn = full.draw(told, prompt="a boy is kicking a ball", steps=preset.sampling_steps, cfg_scale=7.5)
    loaded = full.server.call("/amdm/v1/models")["loaded"]
    kept = sum(entry["bytes"] for entry in loaded)
    grown = full.server.memory - first
    print(f"{preset.name}: {kept / 1e6:.0f} MB kept, the process grew by {grown / 1e6:.0f} MB")
    assert drawn.report["denoiser"] == preset.sampling_steps
    assert drawn.report["unet"]["main"] == preset.sampling_steps + 3 * len(told["co_models"])
    assert drawn.report["co_models"] == [] and all(entry.get("adapter") for entry in loaded), "no second UNet"
    assert np.isfinite(drawn.latent).all() and drawn.picture.std() > 0
    assert full.snapshot() == before


def test_a_checkpoint_is_its_unet_and_text_encoder(full: Probed) -> None:
    full.unload()
    first = full.server.memory
    full.draw(settings(slot(OTHER)), prompt=PROMPT, steps=STEPS)
    (entry,) = full.server.call("/amdm/v1/models")["loaded"]
    grown = full.server.memory - first
    print(f"{entry['bytes'] / 1e6:.0f} MB kept, the process grew by {grown / 1e6:.0f} MB")
    # Forge keeps text encoders in half precision on the CPU, too
    assert FLOAT * SD15_UNET + 2 * CLIP_L <= entry["bytes"] <= 1.001 * FLOAT * (SD15_UNET + CLIP_L)


@EACH
@pytest.mark.parametrize("checkpoint", ["main", OTHER])
def test_it_runs_as_a_co_model(full: Probed, bare: dict[str, np.ndarray], kind: str, checkpoint: str) -> None:
    before = full.snapshot()
    drawn = full.draw(settings(slot(checkpoint, **adapter(kind))), prompt=PROMPT, steps=STEPS)
    assert np.isfinite(drawn.latent).all()
    assert distance(drawn.latent, bare[checkpoint]) > 1e-3
    on_main = checkpoint == "main"
    assert drawn.report["denoiser"] == STEPS
    assert drawn.report["co_models"] == ([] if on_main else [K])
    assert drawn.report["unet"]["main"] == STEPS + (K if on_main else 0)
    idle = full.draw(settings(slot(checkpoint, **adapter(kind, strength=0))), prompt=PROMPT, steps=STEPS)
    assert distance(idle.latent, bare[checkpoint]) == 0
    assert distance(full.draw(prompt=PROMPT, steps=STEPS).latent, bare["alone"]) == 0
    assert full.snapshot() == before


@EACH
def test_it_runs_on_the_main_model(full: Probed, bare: dict[str, np.ndarray], kind: str) -> None:
    before = full.snapshot()
    drawn = full.draw(with_main(kind), prompt=PROMPT, steps=STEPS)
    assert np.isfinite(drawn.latent).all()
    assert distance(drawn.latent, bare["alone"]) > 1e-3
    assert drawn.report["denoiser"] == drawn.report["unet"]["main"] == STEPS
    for idle in ({"strength": 0}, {"until": 0}):
        assert distance(full.draw(with_main(kind, **idle), prompt=PROMPT, steps=STEPS).latent, bare["alone"]) == 0
    assert distance(full.draw(prompt=PROMPT, steps=STEPS).latent, bare["alone"]) == 0
    assert full.snapshot() == before


@EACH
def test_on_the_main_checkpoint_it_is_all_that_is_kept(full: Probed, folder: Path, kind: str) -> None:
    full.unload()
    full.draw(settings(slot("main", **adapter(kind))), prompt=PROMPT, steps=STEPS)
    (entry,) = full.server.call("/amdm/v1/models")["loaded"]
    size = (folder / "adapters" / kind).stat().st_size
    widened = FLOAT // (4 if "MIGC" in kind else 2)
    print(f"{kind}: {entry['bytes'] / 1e6:.0f} MB kept of a file of {size / 1e6:.0f} MB")
    assert entry["adapter"] == kind
    assert entry["bytes"] == pytest.approx(widened * size, rel=0.01)


def test_a_second_picture_opens_no_file(full: Probed) -> None:
    full.unload()
    told = settings(slot(OTHER, **adapter(IP_ADAPTER)), slot("main", **adapter(MIGC)), main_adapter=adapter(GLIGEN))
    first, second = (full.draw(told, prompt=PROMPT, steps=STEPS) for _ in range(2))
    assert {f"{OTHER}.safetensors", IP_ADAPTER, MIGC, GLIGEN, ENCODER} <= set(first.report["opened"])
    assert second.report["opened"] == [] and second.report["texts"] == {"main": 0, "co": 0}
    assert distance(first.latent, second.latent) == 0


# --- SDXL ---

XL_MEMORY = 22e9
"""Bytes that one SDXL in float32 needs while it is loaded."""


@pytest.fixture(scope="module")
def full_xl(folder: Path, webui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """A WebUI with one checkpoint of SDXL's size, and SDXL's IP-Adapters."""
    if total_memory() < XL_MEMORY:
        pytest.skip(f"needs {XL_MEMORY / 1e9:.0f} GB of memory, all of it free")
    names = (*XL_KINDS, ENCODER)
    checkpoints = full_size.checkpoints(folder / "checkpoints-xl", webui_host, (XL,))
    adapters = full_size.adapters(folder / "adapters", names)
    with serving(webui_host, tmp_path_factory.mktemp("full-xl"), checkpoints, XL, adapters, names) as probed:
        yield probed


def total_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("kind", XL_KINDS)
def test_an_ip_adapter_on_an_sdxl_of_its_size(full_xl: Probed, kind: str) -> None:
    def draw(amdm: Any = None) -> np.ndarray:
        return full_xl.draw(amdm, prompt=PROMPT, steps=STEPS).latent

    alone, mixed = draw(), draw(settings(slot("main")))
    adapted, on_main = draw(settings(slot("main", **adapter(kind)))), draw(with_main(kind))
    assert np.isfinite(adapted).all() and distance(adapted, mixed) > 1e-3
    assert np.isfinite(on_main).all() and distance(on_main, alone) > 1e-3
    assert distance(draw(settings(slot("main", **adapter(kind, strength=0)))), mixed) == 0
    assert distance(draw(with_main(kind, until=0)), alone) == 0
