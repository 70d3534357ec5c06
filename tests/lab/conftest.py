"""Adapters for the tests of the laboratory."""

from __future__ import annotations

from pathlib import Path

import pytest
import random_adapters

from amdm_lab.bundled import WEIGHTS


@pytest.fixture(scope="module")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters of every kind, with random weights, that fit the bundled checkpoints."""
    folder = tmp_path_factory.mktemp("adapters")
    random_adapters.write(folder, random_adapters.Shape.of(WEIGHTS / "all.safetensors"))
    return folder
