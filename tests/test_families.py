"""The one table of families: whatever says what a file or a host's model is names a family that the table has."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from lib_amdm.families import FLOW_KINDS, TEXT_WIDTHS, Family, FlowKind, flow_family, unet_family
from lib_amdm.files.checkpoint_family import family_of

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
