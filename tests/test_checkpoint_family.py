"""A checkpoint's family by its file alone, as the lists on the page have it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import save_file

from amdm_lab.bundled import WEIGHTS
from lib_amdm.families import Family
from lib_amdm.files import checkpoint_family
from lib_amdm.files.checkpoint_family import family_in, family_of
from lib_amdm.files.state import ByState

OLD = "model.diffusion_model."
READS = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def unet(channels: int = 4, text: int = 768, labels: int = 0, out: int = 4, texts: str = "") -> dict:
    weights = {"input_blocks.0.0.weight": (320, channels, 3, 3), READS: (320, text), "out.2.weight": (out, 320, 3, 3)}
    if labels:
        weights["label_emb.0.0.weight"] = (1280, labels)
    return {OLD + name: shape for name, shape in weights.items()} | ({texts: (1,)} if texts else {})


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        (unet(), "SD1"),
        (unet(channels=9), "SD1 inpainting"),
        (unet(channels=8), "SD1 InstructPix2Pix"),
        (unet(text=1024), "SD2"),
        (unet(channels=5, text=1024), "SD2 depth"),
        (unet(text=1024, labels=2048), "SD2 unCLIP"),
        (unet(text=1024, texts="embedder.model.ln_final.weight"), "SD2 unCLIP"),
        (unet(text=2048, labels=2816), "SDXL"),
        (unet(text=1280, labels=2560), "SDXL"),
        (unet(channels=9, text=2048, labels=2816), "SDXL inpainting"),
        (unet(channels=32, text=2048, labels=2816, out=32), "Mugen"),
        (unet(labels=99), None),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (128,)}, "Flux"),
        ({OLD + "double_blocks.0.img_attn.qkv.weight": (9216, 3072)}, "Flux"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,), "double_stream_modulation_img.lin.weight": (1,)}, "Flux.2"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,), "distilled_guidance_layer.norms.0.scale": (1,)}, "Chroma"),
        ({OLD + "joint_blocks.0.context_block.attn.qkv.weight": (1,)}, "SD3"),
        ({"cap_embedder.1.weight": (2304, 2304)}, "Lumina 2"),
        ({OLD + "cap_embedder.1.weight": (3840, 2560)}, "Z-Image"),
        ({"cap_embedder.1.weight": (1, 1)}, None),
        ({"net.llm_adapter.blocks.0.cross_attn.q_proj.weight": (1,)}, "Anima"),
        ({"txt_norm.weight": (3584,)}, "Qwen-Image"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (1,)}, None),
        ({OLD + "input_blocks.0.0.weight": (320,)}, None),
        (unet() | {OLD + "label_emb.0.0.weight": (1280,)}, None),
        (unet() | {OLD + READS: (320,)}, None),
        ({"cap_embedder.1.weight": ()}, None),
        ({}, None),
    ],
)
def test_the_family_is_told_by_names_and_shapes(shapes: dict, family: str | None) -> None:
    found = family_of(shapes)
    assert (found and str(found)) == family


def test_families_that_share_their_latents_go_together() -> None:
    flux, z_image, sd1 = (
        family_of(shapes)
        for shapes in (
            {"double_blocks.0.img_attn.qkv.weight": (1,)},
            {"cap_embedder.1.weight": (3840, 2560)},
            unet(),
        )
    )
    assert flux and z_image and sd1
    assert flux.goes_with(z_image) and not flux.goes_with(sd1)
    assert not Family("SD1", "InstructPix2Pix").goes_with(Family("SD1", "InstructPix2Pix"))


def test_a_file_is_read_once_until_it_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        checkpoint_family, "opened", lambda path, inert, of=checkpoint_family.opened: read.append(path) or of(path)
    )
    file, families = tmp_path / "x.safetensors", ByState(family_in)

    def write(shapes: dict) -> None:
        save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)

    write(unet())
    assert [str(families.of(file)) for _ in range(3)] == ["SD1"] * 3
    write(unet(labels=2816, text=2048))
    assert str(families.of(file)) == "SDXL"
    assert len(read) == 2


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({"cap_embedder.1.weight": (3840, 32), "final_layer.linear.weight": (64, 32)}, "Z-Image"),
        (unet(9), "SD1 inpainting"),
    ],
)
def test_a_gguf_file_is_told_by_its_header(tmp_path: Path, shapes: dict, family: str) -> None:
    pytest.importorskip("gguf")
    tensors = [(name.removeprefix(OLD), np.zeros(shape, np.float16), None) for name, shape in shapes.items()]
    file = write_gguf(tmp_path / "x.gguf", "an architecture", tensors)
    assert str(family_in(file)) == family
    file.write_bytes(file.read_bytes()[:60])
    assert family_in(file) is None


@pytest.mark.parametrize("contents", [b"", b"no checkpoint", b"\x80\x04N."])
def test_a_file_that_cannot_be_read_has_no_family(tmp_path: Path, contents: bytes) -> None:
    for name in ("x.safetensors", "x.ckpt", "x.gguf"):
        file = tmp_path / name
        file.write_bytes(contents)
        assert family_in(file) is None
        file.unlink()
        assert family_in(file) is None


def test_the_bundled_checkpoints_are_known() -> None:
    assert {str(family_in(file)) for file in WEIGHTS.glob("*.safetensors")} == {"SD1"}
