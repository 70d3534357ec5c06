"""Families of models: one table names them, a file shows its own, and what does not go together is refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import write_gguf
from safetensors.torch import save_file

from lib_amdm.errors import AmdmError, cause
from lib_amdm.families import FLOW_KINDS, TEXT_WIDTHS, Family, FlowKind, flow_family, unet_family, wan_family
from lib_amdm.files import checkpoint_family
from lib_amdm.files.checkpoint_family import family_in, family_of
from lib_amdm.files.state import ByState
from lib_amdm.hosts.common import refusals

HOSTS = Path(__file__).resolve().parents[1] / "lib_amdm" / "hosts"
LATENTS = {kind.name: kind.latents for kind in FLOW_KINDS}
KNOWN = {*LATENTS, *TEXT_WIDTHS.values()}


def table(file: str, name: str) -> dict[str, str]:
    """A table in a host's file, which cannot be imported without its WebUI."""
    for node in ast.parse((HOSTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{file} has no {name}")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(table("common/engines.py", "ENGINES").values(), id="engines of Forge and Forge Neo"),
        pytest.param(table("common/hijack.py", "FLAGS").values(), id="flags of A1111 and reForge"),
    ],
)
def test_every_name_of_a_family_is_in_the_table(names: Any) -> None:
    assert set(names) <= KNOWN


def test_small_autoencoders_are_for_latents_of_the_table() -> None:
    names, channels = (table("common/small_autoencoders.py", name) for name in ("NAMES", "CHANNELS"))
    spaces = {flow_family(name).space for name in LATENTS} | {unet_family(name).space for name in TEXT_WIDTHS.values()}
    assert names.keys() <= spaces
    assert channels.keys() <= names.keys(), "a number of channels without a file"
    # those of the UNets have the number that is assumed for the others
    assert not channels.keys() & {unet_family(name).space for name in TEXT_WIDTHS.values()}


def test_a_class_of_engines_without_an_entry_is_no_family_of_another_name() -> None:
    assert not table("common/engines.py", "ENGINES").keys() & KNOWN


@pytest.mark.parametrize("name", LATENTS)
def test_a_known_family_has_its_latents_whatever_a_host_calls_them(name: str) -> None:
    assert flow_family(name) == flow_family(name, "another")
    assert flow_family(name).fits(Family(name, latents=LATENTS[name], is_flow=True))
    together = {other for other in LATENTS if flow_family(other).fits(flow_family(name))}
    assert together == {other for other in LATENTS if LATENTS[other] == LATENTS[name]}


def test_an_unknown_family_has_the_latents_that_its_host_names() -> None:
    assert flow_family("New", "Flux").fits(flow_family("Flux"))
    assert not flow_family("New").fits(flow_family("Flux"))


def test_class_labels_are_a_picture_to_an_sd2_alone() -> None:
    assert str(unet_family("SD2", has_labels=True)) == "SD2 unCLIP"
    assert str(unet_family("SDXL", has_labels=True)) == "SDXL", "an SDXL has them for sizes"


@pytest.mark.parametrize("kind", [kind for kind in FLOW_KINDS if kind.marks], ids=lambda kind: kind.name)
def test_every_mark_of_a_family_is_found_in_a_file(kind: FlowKind) -> None:
    for mark in kind.marks:
        found = family_of({f"model.diffusion_model.{mark}": (kind.width or 1, 1)})
        assert found == flow_family(kind.name)


CO, MAIN = SimpleNamespace(name="co.safetensors"), SimpleNamespace(name="main.safetensors")
SD1, SDXL, INPAINTING = Family("SD1"), Family("SDXL"), Family("SDXL", "inpainting")


def message(call: Callable[[], object]) -> str:
    with pytest.raises(AmdmError) as raised:
        call()
    return str(raised.value)


def test_a_family_is_called_by_its_name_and_its_inputs() -> None:
    names = {4: "SD1", 5: "SD1 depth", 8: "SD1 InstructPix2Pix", 9: "SD1 inpainting", 6: "SD1 with 6 input channels"}
    assert {channels: str(unet_family("SD1", channels)) for channels in names} == names
    # of the flow families those that have eps models too say which one it is
    assert str(Family("SDXL", is_flow=True)) == "SDXL rectified flow"
    assert str(Family("Z-Image", latents="Flux", is_flow=True)) == "Z-Image"


def test_models_go_together_by_their_latents_and_inputs() -> None:
    rectified, inpainting = Family("SDXL", is_flow=True), INPAINTING
    flux, chroma = Family("Flux", latents="Flux", is_flow=True), Family("Chroma", latents="Flux", is_flow=True)
    anima = Family("Anima", latents="Wan21", is_flow=True)
    together = {(SDXL, SDXL), (SDXL, rectified), (flux, chroma), (inpainting, inpainting)}
    everything = (SD1, SDXL, rectified, inpainting, flux, chroma, anima)
    for one in everything:
        for other in everything:
            expected = one == other or (one, other) in together or (other, one) in together
            assert one.fits(other) == expected, (one, other)
            assert one.crosses(other) == (not expected and inpainting not in (one, other)), (one, other)


@pytest.mark.parametrize("name", ["SD1", "SD2", "SDXL"])
@pytest.mark.parametrize("inputs", ["", "inpainting", "depth", "with 6 input channels"])
def test_a_main_checkpoint_of_an_eps_or_v_family_is_taken(name: str, inputs: str) -> None:
    refusals.refuse_main(Family(name, inputs), "main.safetensors", "beside")


@pytest.mark.parametrize("name", ["SD3", "Flux", "Chroma", "of an unknown kind"])
def test_a_flow_model_is_refused_where_none_can_be_run(name: str) -> None:
    said = message(lambda: refusals.refuse_flow(Family(name, is_flow=True), "main.safetensors"))
    assert f'"main.safetensors" is {name}, but in this WebUI the method needs an eps or v model' in said
    refusals.refuse_flow(SDXL, "main.safetensors")


@pytest.mark.parametrize(
    "family", [Family("SD1", "InstructPix2Pix"), Family("SD2", "unCLIP"), Family("PiD", latents="PiD")], ids=str
)
def test_a_main_checkpoint_with_inputs_of_its_own_is_refused(family: Family) -> None:
    said = message(lambda: refusals.refuse_main(family, "main.safetensors", '"other.safetensors"'))
    assert str(family) in said and "main.safetensors" in said and "other.safetensors" in said
    assert f": {family.peculiarity}; switch AMDM off" in said


def test_checkpoints_with_other_inputs_do_not_go_together() -> None:
    for family in (SD1, SDXL):
        refusals.refuse_other_family(2, CO, SDXL, MAIN, family)
    said = message(lambda: refusals.refuse_other_family(2, CO, SDXL, MAIN, INPAINTING))
    assert said.startswith(
        'AMDM co-model 2: "co.safetensors" is SDXL, but the main checkpoint "main.safetensors" is SDXL inpainting: '
        "inpainting models are also shown the mask and the known part; "
    )


QWEN, PID, ODD = flow_family("Qwen-Image 2.1"), flow_family("PiD"), unet_family("SD1", 6)
REASONS = [
    (INPAINTING, SDXL, "inpainting models are also shown the mask and the known part"),
    (unet_family("SD1", 5), INPAINTING, "depth models are also shown a map of depths"),
    (SD1, unet_family("SD2", 7), "upscaling models are also shown the smaller picture"),
    (unet_family("SD1", 8), SD1, "InstructPix2Pix models are also shown the picture to change"),
    (unet_family("SD2", has_labels=True), SD1, "unCLIP models are also shown an encoded picture"),
    (wan_family(36, 16), flow_family("Wan"), "image-to-video models are also shown the first frame"),
    (ODD, SDXL, "models with 6 input channels are shown more than a latent"),
    (SDXL, QWEN, "the pictures of Qwen-Image 2.1 have a fourth channel"),
    (PID, SDXL, "PiD enlarges pictures and draws none"),
]


@pytest.mark.parametrize(("family", "other", "reason"), REASONS)
def test_a_pair_that_cannot_be_run_has_a_reason_in_either_order(family: Family, other: Family, reason: str) -> None:
    assert family.reason_against(other) == reason
    assert bool(other.reason_against(family)) and not family.goes_with(other)


def test_exactly_the_pairs_that_cannot_be_run_have_a_reason() -> None:
    everything = {SD1, SDXL, *(flow_family(name) for name in LATENTS), *(one for pair in REASONS for one in pair[:2])}
    for family in everything:
        for main in everything:
            assert bool(family.reason_against(main)) == (not family.goes_with(main)), (family, main)


def test_a_flow_co_model_is_refused_where_none_can_be_run() -> None:
    refusals.refuse_flow_beside(1, CO, SDXL)
    said = message(lambda: refusals.refuse_flow_beside(1, CO, Family("SD3", is_flow=True)))
    assert said.startswith('AMDM co-model 1: "co.safetensors" is SD3, but in this WebUI')


def test_a_file_with_missing_tensors_says_how_many_and_which() -> None:
    refusals.refuse_missing_tensors(1, "co.safetensors", [])
    said = message(lambda: refusals.refuse_missing_tensors(1, "co.safetensors", ["a.weight", "b.bias"]))
    assert "lacks 2 tensors" in said and "a.weight" in said


def test_a_librarys_text_becomes_a_part_of_a_sentence_without_a_path() -> None:
    assert cause(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(cause(ValueError("x" * 1000))) == 200
    with pytest.raises(OSError) as raised:
        open("/no/such/folder/x.safetensors")  # noqa: PTH123, SIM115
    assert cause(raised.value) == "FileNotFoundError: No such file or directory"


def test_every_message_is_one_line_with_a_remedy() -> None:
    messages = [
        message(lambda: refusals.refuse_flow(Family("SD3", is_flow=True), "m")),
        message(lambda: refusals.refuse_main(Family("SD2", "unCLIP"), "m", "c")),
        message(lambda: refusals.refuse_other_family(1, CO, SD1, MAIN, INPAINTING)),
        message(lambda: refusals.refuse_flow_beside(1, CO, Family("SD3", is_flow=True))),
        str(refusals.without_autoencoder(1, "c", "choose a checkpoint with its VAE")),
        message(lambda: refusals.refuse_missing_tensors(1, "c", ["a"])),
        str(refusals.unreadable(1, "c", "EOFError: cut off")),
        str(refusals.without_text_encoder(1, "c")),
        str(refusals.without_unet(1, "c")),
    ]
    for text in messages:
        assert re.fullmatch(r'AMDM[^\n]*"[^"]+"[^\n]*; [^\n]*(choose|download|switch)[^\n]*\.', text), text


OLD = "model.diffusion_model."
READS = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


def unet(channels: int = 4, text: int = 768, labels: int = 0, out: int = 4, texts: str = "") -> dict:
    weights = {"input_blocks.0.0.weight": (320, channels, 3, 3), READS: (320, text), "out.2.weight": (out, 320, 3, 3)}
    if labels:
        weights["label_emb.0.0.weight"] = (1280, labels)
    return {OLD + name: shape for name, shape in weights.items()} | ({texts: (1,)} if texts else {})


def wan(channels: int, out: int) -> dict:
    first, last = (5120, channels, 1, 2, 2), (4 * out, 5120)
    return {"head.modulation": (1, 2, 5120), "patch_embedding.weight": first, "head.head.weight": last}


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
        ({"double_blocks.0.img_attn.qkv.weight": (1,), "double_stream_modulation_img.lin.weight": (1,)}, "Flux.2"),
        ({"double_blocks.0.img_attn.qkv.weight": (1,), "distilled_guidance_layer.norms.0.scale": (1,)}, "Chroma"),
        ({"cap_embedder.1.weight": (2304, 2304)}, "Lumina 2"),
        ({"cap_embedder.1.weight": (1, 1)}, None),
        ({"net.llm_adapter.blocks.0.cross_attn.q_proj.weight": (1,)}, "Anima"),
        ({"txt_norm.weight": (3584,), "img_in.weight": (3072, 64)}, "Qwen-Image"),
        ({"txt_in.text_norm.weight": (4096,), "img_in.weight": (4096, 64)}, "Qwen-Image 2.1"),
        ({OLD + "layers.0.mlp.linear_fc2.weight": (4096, 12288)}, "Ernie-Image"),
        (wan(16, 16), "Wan"),
        (wan(36, 16), "Wan image-to-video"),
        (wan(48, 48), "Wan with 48 latent channels"),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": (1,)}, None),
        ({OLD + "input_blocks.0.0.weight": (320,)}, None),
        (unet() | {OLD + "label_emb.0.0.weight": (1280,)}, None),
        (unet() | {OLD + READS: (320,)}, None),
        ({"cap_embedder.1.weight": ()}, None),
        ({}, None),
    ],
)
def test_the_family_is_known_by_names_and_shapes(shapes: dict, family: str | None) -> None:
    found = family_of(shapes)
    assert (found and str(found)) == family


def test_families_that_share_their_latents_go_together() -> None:
    flux, z_image, sd1 = (
        family_of(shapes)
        for shapes in ({"double_blocks.0.img_attn.qkv.weight": (1,)}, {"cap_embedder.1.weight": (3840, 2560)}, unet())
    )
    assert flux and z_image and sd1
    assert flux.fits(z_image) and not flux.crosses(z_image)
    assert flux.crosses(sd1) and sd1.crosses(flux) and not flux.fits(sd1)
    assert unet_family("SD2").fits(sd1), "the same latents"
    transparent = family_of({"txt_in.text_norm.weight": (4096,), "img_in.weight": (4096, 64)})
    assert transparent and transparent.goes_with(transparent)
    assert not transparent.goes_with(flux) and not flux.goes_with(transparent), "its pictures have a fourth channel"
    for alone in (Family("SD1", "InstructPix2Pix"), Family("SD2", "unCLIP"), flow_family("PiD")):
        assert not alone.goes_with(flux) and not flux.goes_with(alone)
    assert not Family("SD1", "InstructPix2Pix").goes_with(Family("SD1", "InstructPix2Pix"))


def test_one_frame_of_a_video_model_goes_with_pictures_of_its_latents() -> None:
    one_frame, from_picture, other_latents = (family_of(wan(*sizes)) for sizes in ((16, 16), (36, 16), (48, 48)))
    qwen, sd1 = flow_family("Qwen-Image"), unet_family("SD1")
    assert one_frame and from_picture and other_latents
    assert one_frame.fits(qwen) and one_frame.crosses(sd1) and sd1.crosses(one_frame)
    assert not from_picture.goes_with(from_picture) and not qwen.goes_with(from_picture)
    assert not other_latents.fits(one_frame) and not other_latents.fits(qwen)


def test_a_file_is_read_once_until_it_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = checkpoint_family.open_tensor_file

    def watched(path: Path, inert: bool = False) -> Any:
        read.append(path)
        return original(path)

    monkeypatch.setattr(checkpoint_family, "open_tensor_file", watched)
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
def test_a_gguf_file_is_known_by_its_header(tmp_path: Path, shapes: dict, family: str) -> None:
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
