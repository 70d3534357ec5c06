"""The host without a WebUI: it has the page's functions, and runs no code of a checkpoint's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_host import functions, parameters
from hostile_files import HOSTILE, evil

from amdm_lab.bundled import DIALECT_OF, WEIGHTS
from amdm_lab.studio.host import Job, Standalone
from lib_amdm.errors import AmdmError
from lib_amdm.files.checkpoint_family import family_in
from lib_amdm.hosts import protocol


def test_the_studio_has_the_pages_functions_with_their_parameters() -> None:
    wanted = functions(protocol.Page)
    theirs = {name: parameters(each) for name, each in functions(Standalone).items() if name in wanted}
    assert theirs == {name: parameters(each) for name, each in wanted.items()}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_code_of_a_checkpoints_file_runs(kind: str, tmp_path: Path) -> None:
    (tmp_path / "odd.ckpt").write_bytes(HOSTILE[kind](evil(tmp_path / "ran")))
    with pytest.raises(AmdmError, match=r'^AMDM: "odd\.ckpt" .*\.$'):
        Standalone(tmp_path).generate(Job("odd", ["a"], [1], steps=1))
    assert not (tmp_path / "ran").exists()


def test_the_bundled_checkpoints_are_stable_diffusion_1() -> None:
    families = {file.stem: str(family_in(file)) for file in WEIGHTS.glob("*.safetensors")}
    assert {families[name] for name in DIALECT_OF} == {"SD1"}
    assert {families[name] for name in families.keys() - DIALECT_OF.keys()} <= {"SD1", "SD1 with 16 latent channels"}
