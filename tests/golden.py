"""Reading the golden tensors of tests/golden, and the adapters they were made with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lib_amdm.adapters.base import Adapter
from lib_amdm.adapters.kinds import adapter_file, adapter_of
from tests.seeded import weight

FOLDER = Path(__file__).parent / "golden"


def golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a golden file, and what its header says."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, {key: json.loads(value) for key, value in file.metadata().items()}


def seeded(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The weights of these names and shapes."""
    return {name: weight(name, shape) for name, shape in shapes.items()}


def seeded_adapter(shapes: Mapping[str, Sequence[int]], name: str = "golden.safetensors") -> Adapter:
    return adapter_of(adapter_file(seeded(shapes), name))


def timesteps(told: Mapping[str, Any], rows: int = 2) -> Tensor:
    return torch.full((rows,), told["timestep"])
