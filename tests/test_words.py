"""What is said when a checkpoint cannot be used: one sentence that names the file, the slot and the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lib_amdm.errors import AmdmError
from lib_amdm.hosts.common import refusals as words


def said(call: Callable[[], object]) -> str:
    with pytest.raises(AmdmError) as raised:
        call()
    return str(raised.value)


@pytest.mark.parametrize(
    "kind", ["SD1", "SD2", "SDXL", "SD1 inpainting", "SDXL inpainting", "SD2 depth", "SDXL with 8 input channels"]
)
def test_a_main_checkpoint_of_an_eps_or_v_kind_is_taken(kind: str) -> None:
    words.refuse_main(kind, "main.safetensors", True)


@pytest.mark.parametrize("kind", ["SD3", "Flux", "Chroma", "of an unknown kind"])
def test_a_main_checkpoint_of_another_kind_is_refused(kind: str) -> None:
    told = said(lambda: words.refuse_main(kind, "main.safetensors", False))
    assert f'"main.safetensors" is {kind}, but the method needs an eps or v model' in told


@pytest.mark.parametrize("kind", ["SD1 InstructPix2Pix", "SD2 unCLIP"])
def test_a_main_checkpoint_with_inputs_of_its_own_is_refused(kind: str) -> None:
    assert kind in said(lambda: words.refuse_main(kind, "main.safetensors", True))


def test_only_checkpoints_of_one_kind_go_together() -> None:
    words.refuse_stranger(2, "co.safetensors", "SDXL", "main.safetensors", "SDXL")
    told = said(lambda: words.refuse_stranger(2, "co.safetensors", "SDXL", "main.safetensors", "SD1"))
    assert told.startswith('AMDM slot 2: "co.safetensors" is SDXL, but the main checkpoint "main.safetensors" is SD1;')


def test_a_file_with_holes_says_how_many_and_which() -> None:
    words.refuse_holes(1, "co.safetensors", [])
    told = said(lambda: words.refuse_holes(1, "co.safetensors", ["a.weight", "b.bias"]))
    assert "lacks 2 tensors" in told and "a.weight" in told


def test_what_a_library_says_becomes_a_part_of_a_sentence() -> None:
    assert words.one_line(ValueError("two\n  lines")) == "ValueError: two lines"
    assert len(words.one_line(ValueError("x" * 1000))) == 300


def test_every_message_is_one_line_with_a_remedy() -> None:
    told = [
        said(lambda: words.refuse_main("SD3", "m", False)),
        said(lambda: words.refuse_main("SD2 unCLIP", "m", True)),
        said(lambda: words.refuse_stranger(1, "c", "SD1", "m", "SD2")),
        said(lambda: words.refuse_holes(1, "c", ["a"])),
        str(words.unreadable(1, "c", "EOFError: cut off")),
        str(words.without_unet(1, "c")),
    ]
    for text in told:
        assert re.fullmatch(r'AMDM[^\n]*"[cm]"[^\n]*; [^\n]*(choose|download|switch)[^\n]*\.', text), text
