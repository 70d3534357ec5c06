"""Forge Neo with the small checkpoints of flow families."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .flow_checkpoints import FAMILIES, NAMES
from .hosts import Host
from .webui_server import WebUI, make_checkpoints

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "flow_checkpoints.py"
SIZES = HERE / "flow_sizes"
SDXL = "rectified-b"
"""A small SDXL, which is an eps model without the word in its name."""


def make(host: Host, folder: Path, names: Iterable[str] = NAMES) -> Path:
    """Write the checkpoints of these names that are missing, and what belongs to them."""
    missing = [name for name in names if not (folder / "Stable-diffusion" / f"{name}.safetensors").exists()]
    if missing:
        make_checkpoints(host, SCRIPT, folder, "--only", *missing)
    return folder


class FlowWebUI(WebUI):
    """A server that has the checkpoints in `models`, starts with `first`, and loads them in their own sizes."""

    def __init__(
        self, host: Host, data: Path, *, models: Path, first: str, options: Mapping[str, Any] | None = None, **told: Any
    ):
        super().__init__(
            host,
            data,
            checkpoints=models / "Stable-diffusion",
            first_checkpoint=f"{first}.safetensors",
            options={"forge_additional_modules": self._modules(data, first), **(options or {})},
            **told,
        )
        for kind in ("text_encoder", "VAE"):
            folder = data / "models" / kind
            folder.mkdir()
            for file in sorted((models / kind).glob("*.safetensors")):
                (folder / file.name).symlink_to(file)
        self._link_extension(SIZES.name, SIZES)

    @staticmethod
    def _modules(data: Path, checkpoint: str, beside: str = "") -> list[str]:
        """The paths of a checkpoint's modules, and of another one's text encoders, in Forge Neo's order."""
        family = FAMILIES.get(checkpoint.partition("-")[0])
        modules = set(family.modules if family else ())
        if beside:
            other = FAMILIES[beside.partition("-")[0]]
            modules |= {module for module in other.modules if module.startswith("text_encoder/")}
        return sorted(str(data / "models" / module) for module in modules)

    def request(
        self, checkpoint: str | None, parameters: Mapping[str, Any], picture: np.ndarray | None = None
    ) -> dict[str, Any]:
        """As of every WebUI; the checkpoint's modules are chosen with it.

        A parameter `beside` names a checkpoint whose text encoders are chosen too.
        """
        # the automatic schedule ends twice at the level of no noise with those in SDXL's names, and draws black
        told = {"scheduler": "Simple", **parameters}
        beside = told.pop("beside", "")
        request = super().request(checkpoint, told, picture)
        if checkpoint:
            request["override_settings"]["forge_additional_modules"] = self._modules(self.data, checkpoint, beside)
        return request
