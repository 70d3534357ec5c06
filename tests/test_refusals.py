"""The errors for checkpoints that cannot be used: one sentence that names the file, the slot and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from lib_amdm.errors import AmdmError, cause
from lib_amdm.families import Family, unet_family
from lib_amdm.hosts.common import refusals

CO, MAIN = SimpleNamespace(name="co.safetensors"), SimpleNamespace(name="main.safetensors")
SD1, SDXL = Family("SD1"), Family("SDXL")


def message(call: Callable[[], object]) -> str:
    with pytest.raises(AmdmError) as raised:
        call()
    return str(raised.value)


def test_a_family_is_called_by_its_name_and_its_inputs() -> None:
    names = {4: "SD1", 5: "SD1 depth", 8: "SD1 InstructPix2Pix", 9: "SD1 inpainting", 6: "SD1 with 6 input channels"}
    assert {channels: str(unet_family("SD1", channels)) for channels in names} == names


def test_models_go_together_by_their_latents_and_inputs() -> None:
    rectified, inpainting = Family("SDXL", is_flow=True), Family("SDXL", "inpainting")
    flux, chroma = Family("Flux", latents="Flux", is_flow=True), Family("Chroma", latents="Flux", is_flow=True)
    anima = Family("Anima", latents="Wan21", is_flow=True)
    together = {(SDXL, SDXL), (SDXL, rectified), (flux, chroma), (inpainting, inpainting)}
    everything = (SD1, SDXL, rectified, inpainting, flux, chroma, anima)
    for one in everything:
        for other in everything:
            expected = one == other or (one, other) in together or (other, one) in together
            assert one.fits(other) == expected, (one, other)


def test_only_a_family_of_both_kinds_says_which_one_it_is() -> None:
    assert str(Family("SDXL", is_flow=True)) == "SDXL rectified flow"
    assert str(Family("Z-Image", latents="Flux", is_flow=True)) == "Z-Image"


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
    "family", [Family("SD1", "InstructPix2Pix"), Family("SD2", "unCLIP"), Family("Wan", latents="Wan21")], ids=str
)
def test_a_main_checkpoint_with_inputs_of_its_own_is_refused(family: Family) -> None:
    said = message(lambda: refusals.refuse_main(family, "main.safetensors", '"other.safetensors"'))
    assert str(family) in said and "main.safetensors" in said and "other.safetensors" in said


def test_only_checkpoints_of_one_family_go_together() -> None:
    refusals.refuse_other_family(2, CO, SDXL, MAIN, SDXL)
    said = message(lambda: refusals.refuse_other_family(2, CO, SDXL, MAIN, SD1))
    assert said.startswith(
        'AMDM co-model 2: "co.safetensors" is SDXL, but the main checkpoint "main.safetensors" is SD1;'
    )


def test_a_file_with_missing_tensors_says_how_many_and_which() -> None:
    refusals.refuse_missing_tensors(1, "co.safetensors", [])
    said = message(lambda: refusals.refuse_missing_tensors(1, "co.safetensors", ["a.weight", "b.bias"]))
    assert "lacks 2 tensors" in said and "a.weight" in said


def test_a_librarys_text_becomes_a_part_of_a_sentence() -> None:
    assert cause(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(cause(ValueError("x" * 1000))) == 200


def test_a_librarys_text_about_a_file_has_no_path() -> None:
    with pytest.raises(OSError) as raised:
        open("/no/such/folder/x.safetensors")  # noqa: PTH123, SIM115
    assert cause(raised.value) == "FileNotFoundError: No such file or directory"


def test_every_message_is_one_line_with_a_remedy() -> None:
    messages = [
        message(lambda: refusals.refuse_flow(Family("SD3", is_flow=True), "m")),
        message(lambda: refusals.refuse_main(Family("SD2", "unCLIP"), "m", "c")),
        message(lambda: refusals.refuse_other_family(1, CO, SD1, MAIN, SDXL)),
        message(lambda: refusals.refuse_missing_tensors(1, "c", ["a"])),
        str(refusals.unreadable(1, "c", "EOFError: cut off")),
        str(refusals.without_text_encoder(1, "c")),
        str(refusals.without_unet(1, "c")),
    ]
    for text in messages:
        assert re.fullmatch(r'AMDM[^\n]*"[^"]+"[^\n]*; [^\n]*(choose|download|switch)[^\n]*\.', text), text
