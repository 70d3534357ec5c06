"""The scene that every way to use AMDM draws, in ComfyUI."""

from __future__ import annotations

import pytest
import torch
from one_scene import MAIN, OTHER, SCALE, SEEDS, SIZE, STEPS, far, of_k_diffusion
from safetensors.torch import save_file

from amdm_lab.bundled import WEIGHTS
from amdm_lab.studio.host import noise
from amdm_lab.studio.pipeline import read_pipeline

from .graphs import Drawing
from .server import ComfyUI

LATENT_SCALE, SIGMA_MAX, HEADS = 0.18215, 14.614641, 4


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with the encoded texts: ComfyUI reads no text encoder as small as theirs."""
    pipe = read_pipeline(WEIGHTS / "shapes.safetensors")
    encoded = {}
    for name, text in {"main": MAIN, "other": OTHER}.items():
        encoded[name], encoded["none"] = pipe.encode_prompt(text, "cpu", 1, True, "")
    file = tmp_path_factory.mktemp("words") / "words.safetensors"
    save_file({name: each.contiguous() for name, each in encoded.items()}, file)
    return str(file)


def start(comfyui: ComfyUI, seed: int) -> str:
    """A file with the noise that k-diffusion starts from; ComfyUI's is larger by a part in 400 at its first level."""
    file = f"start-{seed}.latent"
    latents = noise((seed,), (4, SIZE // 8, SIZE // 8)) * SIGMA_MAX / LATENT_SCALE
    (comfyui.data / "input").mkdir(exist_ok=True)
    save_file({"latent_tensor": latents, "latent_format_version_0": torch.tensor([])}, comfyui.data / "input" / file)
    return file


@pytest.mark.parametrize("mixed", [False, True], ids=["alone", "together"])
def test_the_latents_are_those_of_k_diffusion(comfyui: ComfyUI, words: str, mixed: bool) -> None:
    drawn = []
    for seed in SEEDS:
        drawing = Drawing()
        main, other = (
            drawing.node("TestSmallModel", file=str(WEIGHTS / f"{name}.safetensors"), heads=HEADS)
            for name in ("shapes", "colours")
        )
        said, other_said, nothing = (
            drawing.node("TestKeptWords", file=words, name=name) for name in ("main", "other", "none")
        )
        latents = drawing.node(
            "KSamplerAdvanced",
            model=drawing.amdm(main, other, positive=other_said, negative=nothing) if mixed else main,
            positive=said,
            negative=nothing,
            latent_image=drawing.node("LoadLatent", latent=start(comfyui, seed)),
            add_noise="disable",
            noise_seed=seed,
            steps=STEPS,
            cfg=SCALE,
            sampler_name="euler",
            scheduler="normal",
            start_at_step=0,
            end_at_step=STEPS,
            return_with_leftover_noise="disable",
        )
        drawn.append(comfyui.latents(drawing.saved(latents)) * LATENT_SCALE)
    apart = far(torch.cat(drawn), of_k_diffusion(mixed, whole_timesteps=True))
    print(apart)
    assert max(apart) < 1e-4
