"""Fixtures for the tests on a real ComfyUI: AMDM_COMFYUI_DIR names its checkout.

AMDM_COMFYUI_PYTHON names its interpreter, where that is not ``venv/bin/python`` in the checkout.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from webui.webui_server import offline_environment

from .server import HERE, VARIABLE, ComfyUI, directory, python

SCRIPT = HERE / "checkpoints.py"


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout of ComfyUI."""
    found = directory()
    if found is None:
        pytest.skip(f"{VARIABLE} does not name the folder of a real ComfyUI")
    assert found
    return found


@pytest.fixture(scope="session")
def checkpoint_dir(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small checkpoints; they are made once, and kept until the recipe changes."""
    key = f"{checkout}\n".encode() + SCRIPT.read_bytes()
    folder = tmp_path_factory.getbasetemp().parent / f"comfyui-{hashlib.sha256(key).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        folder.mkdir(exist_ok=True)
        command = [python(checkout), str(SCRIPT), str(folder)]
        made = subprocess.run(
            command, cwd=checkout, env=offline_environment(folder), capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        (folder / "complete").touch()
    return folder


@pytest.fixture(scope="session")
def comfyui(checkout: Path, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A server with the nodes, shared by the session."""
    server = ComfyUI(checkout, tmp_path_factory.mktemp("comfyui") / "data", checkpoint_dir)
    try:
        yield server.start()
    finally:
        server.stop()
