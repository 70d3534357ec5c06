"""The bundled checkpoints in a real WebUI: they draw what they are told, and AMDM does there what it does alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from one_scene import MAIN, SCALE, SEEDS, STEPS, asked, far, of_k_diffusion

from amdm_lab.bundled import DIALECT_OF, WEIGHTS
from amdm_lab.export import FOLDER, export
from amdm_lab.judges.scenes import Judge
from amdm_lab.shapes import scores
from amdm_lab.studio.host import Job, Standalone
from amdm_lab.world.captions import caption
from amdm_lab.world.data import drawn_scenes
from amdm_lab.world.scenes import Scene
from lib_amdm.settings import CoModel, Settings

from .probed import Probed
from .webui_server import WebUI

PICTURES = int(os.environ.get("AMDM_PARITY_PICTURES", "100"))
DRAWING = {"width": 128, "height": 128, "steps": 20, "cfg_scale": 5, "sampler_name": "Euler"}
MIXED: dict[str, Any] = {"steps": 14, "eta": 0.1}
CO_MODEL: dict[str, Any] = {"gamma": 0.6, "eta": 0.1}
LABEL = {name: f"{FOLDER}/{name}.safetensors" for name in DIALECT_OF}


@pytest.fixture(scope="module")
def server(takes_bundled: None, start_webui: Callable[..., WebUI]) -> WebUI:
    started = start_webui()
    export(started.data)
    started.refresh_checkpoints()
    return started


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


def scenes(count: int) -> list[Scene]:
    return drawn_scenes(count, np.random.default_rng(2024))


def title(name: str) -> str:
    return f"{FOLDER}_{name}"


def draw(server: WebUI, name: str, seed: int, **parameters: object) -> np.ndarray:
    answer = server.txt2img(checkpoint=title(name), **{**DRAWING, "seed": seed, **parameters})
    return server.pixels(answer)[0]


def seen(judge: Judge, pictures: Sequence[np.ndarray]) -> list[Scene]:
    return judge(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 127.5 - 1)


def shares(wanted: Sequence[Scene], found: Sequence[Scene]) -> dict[str, float]:
    """Percent of the objects with the right shape, the right colour, both; percent of right backgrounds."""
    found_shares = scores.shares(wanted, found)
    return {name: 100 * found_shares[name].value for name in ("shape", "colour", "both", "background")}


@pytest.mark.parametrize("name", DIALECT_OF)
def test_a_checkpoint_draws_what_its_captions_say(server: WebUI, judge: Judge, name: str) -> None:
    wanted = scenes(12)
    drawn = [draw(server, name, seed, prompt=caption(s, DIALECT_OF[name])) for seed, s in enumerate(wanted)]
    right = shares(wanted, seen(judge, drawn))
    told = {"shapes": ("shape",), "colours": ("colour",), "backgrounds": ("background",), "all": ("both",)}[name]
    # by chance it would be some 20 in 100 of the shapes and backgrounds, and 12 of the colours
    assert all(right[which] >= (50 if which == "background" else 75) for which in told), right
    assert not server.errors()


def test_amdm_does_here_what_it_does_without_a_webui(server: WebUI, judge: Judge) -> None:
    """The same captions, seeds and settings by the API and on the standalone host: the figures agree to 5 points."""
    wanted = scenes(PICTURES)
    here, there = [], []
    standalone = Standalone(WEIGHTS)
    for seed, scene in enumerate(wanted):
        prompt, other = caption(scene, "shapes"), caption(scene, "colours")
        asked = {"enabled": True, **MIXED, "co_models": [{**CO_MODEL, "checkpoint": LABEL["colours"], "prompt": other}]}
        script = {"AMDM": {"args": [asked]}}
        there.append(draw(server, "shapes", seed, prompt=prompt, alwayson_scripts=script))
        settings = Settings(enabled=True, **MIXED, co_models=(CoModel(checkpoint="colours", prompt=other, **CO_MODEL),))
        job = Job("shapes", [prompt], seeds=[seed], sampler="euler", steps=20, cfg_scale=5, width=128, height=128)
        here.append(standalone.generate(job, settings).pictures[0])
    figures_here, figures_there = shares(wanted, seen(judge, here)), shares(wanted, seen(judge, there))
    report = f"standalone {figures_here}, WebUI {figures_there}"
    print(report)
    assert all(abs(figures_here[which] - figures_there[which]) <= 5 for which in figures_here), report
    assert figures_there["both"] >= 50, report


def test_the_latents_are_those_without_a_webui(takes_bundled: None, start_webui: Callable[..., WebUI]) -> None:
    probed = Probed(start_webui(probe=True))
    export(probed.server.data)
    probed.server.refresh_checkpoints()
    drawing = {**DRAWING, "prompt": MAIN, "steps": STEPS, "cfg_scale": SCALE, "scheduler": "Automatic"}
    for mixed in (False, True):
        settings = asked(LABEL["colours"]) if mixed else None
        drawn = [probed.draw(settings, checkpoint=title("shapes"), seed=seed, **drawing).latent for seed in SEEDS]
        apart = far(torch.from_numpy(np.concatenate(drawn)).float(), of_k_diffusion(mixed))
        print(f"mixed {mixed}: {apart}")
        assert max(apart) < 1e-4


def test_whole_timesteps_set_pictures_with_amdm_hardly_further_apart(server: WebUI) -> None:
    """The difference of the pictures of A1111 and Forge, on trained checkpoints: Forge knows no models as small."""

    def apart(seed: int, scene: Scene, mixed: bool) -> float:
        told: dict[str, object] = {"prompt": caption(scene, "shapes"), "scheduler": "Karras"}
        if mixed:
            co = {"checkpoint": LABEL["colours"], "prompt": caption(scene, "colours")}
            told["alwayson_scripts"] = {"AMDM": {"args": [{"enabled": True, "co_models": [co]}]}}
        options = ({"enable_quantization": whole} for whole in (False, True))
        one, other = (draw(server, "shapes", seed, override_settings=each, **told) for each in options)
        return float(np.abs(one.astype(float) - other).mean())

    plain, mixed = (
        [apart(seed, scene, amdm) for seed, scene in enumerate(scenes(PICTURES // 2))] for amdm in (False, True)
    )
    told = [f"median {np.median(each):.3f}, 90 of 100 below {np.quantile(each, 0.9):.3f}" for each in (plain, mixed)]
    print(f"grey levels of 255: without AMDM {told[0]}; with it {told[1]}")
    assert np.median(mixed) <= 2 * np.median(plain)


def test_the_exported_yaml_is_right_for_the_place_it_was_written_to(tmp_path: Path) -> None:
    for folder in (tmp_path / "models" / "Stable-diffusion", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        files = export(tmp_path if folder.parent.name == "models" else folder)
        assert {file.parent for file in files} == {(folder / FOLDER).resolve()}
        for file in files:
            assert str(file.parent / "clip") in file.with_suffix(".yaml").read_text()
        shutil.rmtree(folder)
