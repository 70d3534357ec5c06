"""The main prompt's LoRA stays with the main model: it never reaches a co-model, and a co-model never disturbs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .probed import STEPS, Probed, distance, mirrored, settings, slot

WITH_LORA = "a red square <lora:strong:1>"
WITHOUT = "a red square"
ALONE = settings(slot("beta", gamma=1, eta=0), eta=0, steps=STEPS)


@pytest.fixture(scope="module")
def lora(probed: Probed) -> Iterator[None]:
    """A LoRA on every attention of the UNet and every layer of the text encoder, strong enough to change a picture."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    random = np.random.default_rng(1)
    tensors: dict[str, np.ndarray] = {}
    with safe_open(probed.server.checkpoint_folder / "alpha.safetensors", "np") as weights:
        for key in weights.keys():  # noqa: SIM118 -- this is no dictionary
            # the names that training scripts give, which all WebUIs read
            prefix = {"model.diffusion_model.": "lora_unet.", "cond_stage_model.transformer.": "lora_te."}
            found = next((start for start in prefix if key.startswith(start)), None)
            if found is None or not key.endswith((".to_q.weight", ".to_v.weight", ".fc1.weight")):
                continue
            out_features, in_features = weights.get_slice(key).get_shape()
            name = (prefix[found] + key.removeprefix(found)).removesuffix(".weight").replace(".", "_")
            tensors[f"{name}.lora_down.weight"] = random.normal(0, 0.3, (2, in_features)).astype(np.float32)
            tensors[f"{name}.lora_up.weight"] = random.normal(0, 0.3, (out_features, 2)).astype(np.float32)
            tensors[f"{name}.alpha"] = np.array(2, dtype=np.float32)
    folder = Path(probed.server.data) / "models" / "Lora"
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "strong.safetensors")
    probed.server.call("/sdapi/v1/refresh-loras", {})
    yield
    (folder / "strong.safetensors").unlink()
    probed.server.call("/sdapi/v1/refresh-loras", {})


def test_the_lora_of_this_test_changes_the_main_model(probed: Probed, lora: None) -> None:
    assert distance(probed.draw(prompt=WITH_LORA).latent, probed.draw(prompt=WITHOUT).latent) > 0.1


def test_it_never_reaches_a_co_model_with_its_own_checkpoint(probed: Probed, lora: None) -> None:
    without = probed.draw(ALONE, prompt=WITHOUT).latent
    probed.unload()
    loaded_beside_it = probed.draw(ALONE, prompt=WITH_LORA).latent
    kept = probed.draw(ALONE, prompt=WITH_LORA).latent
    assert distance(loaded_beside_it, without) == distance(kept, without) == 0


def test_the_main_model_keeps_it_beside_co_models_and_loses_it_afterwards(probed: Probed, lora: None) -> None:
    plain, with_lora = probed.draw(prompt=WITHOUT).latent, probed.draw(prompt=WITH_LORA).latent
    probed.draw(settings(), prompt=WITH_LORA)
    assert distance(probed.draw(prompt=WITH_LORA).latent, with_lora) == 0
    # the host adds and takes away in floating point, by itself too
    assert distance(probed.draw(prompt=WITHOUT).latent, plain) < 1e-4


def test_main_as_a_co_model_is_the_main_model_with_it(probed: Probed, lora: None) -> None:
    assert distance(probed.draw(mirrored("main"), prompt=WITH_LORA).latent, probed.draw(prompt=WITH_LORA).latent) < 1e-4


def test_main_with_a_prompt_of_its_own_is_encoded_with_it(probed: Probed, lora: None) -> None:
    co = settings(slot("main", gamma=1, eta=0, prompt="a blue circle"), eta=0, steps=STEPS)
    first = probed.draw(co, prompt=WITHOUT).latent
    assert (
        distance(probed.draw(co, prompt=WITH_LORA).latent, probed.draw(prompt="a blue circle <lora:strong:1>").latent)
        < 1e-4
    )
    assert distance(probed.draw(co, prompt=WITHOUT).latent, first) < 1e-4, "what was encoded with it must not be kept"
