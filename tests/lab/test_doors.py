"""The same scene through k-diffusion and through diffusers, and the notebook."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from one_scene import MAIN, OTHER, SCALE, SEEDS, SIZE, STEPS, far, of_k_diffusion
from torch import Tensor

from amdm_lab.bundled import WEIGHTS
from amdm_lab.studio.checkpoint_file import CheckpointFile
from amdm_lab.studio.host import noise
from amdm_lab.studio.pipeline import read_pipeline
from amdm_lab.training import networks
from amdm_lab.training.ldm_format import write_checkpoint
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.diffusers import CoPipeline, amdm_pipeline

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "diffusers.ipynb"


def of_diffusers(pipe: Callable[..., Any]) -> Tensor:
    size = {"height": SIZE, "width": SIZE}
    latents = noise(SEEDS, (4, SIZE // 8, SIZE // 8))
    call = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "output_type": "latent", **size}
    return pipe([MAIN] * len(SEEDS), latents=latents, **call).images


def test_diffusers_draws_the_latents_of_k_diffusion() -> None:
    """tests/comfyui and tests/webui draw them on their hosts."""
    shapes, colours = (read_pipeline(WEIGHTS / f"{name}.safetensors") for name in ("shapes", "colours"))
    alone, together = (of_k_diffusion(mixed) for mixed in (False, True))
    assert max(far(of_diffusers(shapes), alone)) < 1e-4
    assert max(far(of_diffusers(amdm_pipeline(shapes, [CoPipeline(colours, OTHER)])), together)) < 1e-4
    assert min(far(together, alone)) > 0.1


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    codes = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    monkeypatch.chdir(NOTEBOOK.parent)
    names: dict[str, Any] = {}
    for code in codes:
        exec(compile(code, NOTEBOOK.name, "exec"), names)
    assert names["alone"].size == names["together"].size == (512, 128)
    assert names["alone"].tobytes() != names["together"].tobytes()


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    return networks.new_unet(), networks.new_vae(), networks.new_text_encoder()


def test_a_pipeline_of_a_file_has_what_the_file_says(parts: tuple[Any, Any, Any], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "v.safetensors", *parts, 0.5, "clip", {"parameterization": "v"})
    networks.text_config().save_pretrained(tmp_path / "clip")
    pipe, file = read_pipeline(tmp_path / "v.safetensors"), CheckpointFile(tmp_path / "v.safetensors", "v")
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert torch.allclose(pipe.scheduler.alphas_cumprod, file.alphas_cumprod(), atol=1e-6)
    assert pipe.vae.config.scaling_factor == 0.5


def test_a_flow_model_is_refused_as_a_pipeline(parts: tuple[Any, Any, Any], tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "flow.safetensors", *parts, 1.0, "clip", {"parameterization": "flow"})
    with pytest.raises(AmdmError, match='"flow" is a flow model, and diffusers has no SD1 pipeline for these'):
        read_pipeline(tmp_path / "flow.safetensors")
