"""The models, texts and files that stay in memory between a WebUI's pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modules import paths_internal, shared

from ...comodels.adapter_use import Adapters
from ...comodels.cache import InMemory, Pool, Recent
from ...comodels.file_list import Folder, lists, model_folders
from ...files.checkpoint_family import family_in
from ...files.state import ByState

LORA_FILES_KEPT = 4


class Kept:
    """Loaded co-models and adapters, encoded texts of the main model, LoRA files, and checkpoints' families."""

    def __init__(self, free: Callable[[], None], runs_flow_models: bool) -> None:
        """Start empty.

        free: releases the memory of models without references.
        runs_flow_models: whether AMDM runs them on this WebUI.
        """
        self.free, self.runs_flow_models = free, runs_flow_models
        self.pool = Pool()
        self.main_texts = Recent()
        self.lora_files = Recent(LORA_FILES_KEPT)
        self.families = ByState(family_in)
        self.adapters = Adapters(*lists(lambda: _folders()[0], lambda: _folders()[1]))

    def listing(self) -> list[InMemory]:
        return self.pool.listing() + self.adapters.listing()

    def unload(self) -> list[InMemory]:
        """Unload everything, and return what that was."""
        self.lora_files.clear()
        entries = self.pool.unload() + self.adapters.unload()
        self.free()
        return entries

    def trim(self, limit: int, adapters: int) -> None:
        """Keep no more than `limit` co-models. adapters: how many the last pass used."""
        if self.pool.trim(limit) + self.adapters.trim(limit, adapters):
            self.free()


def _folders() -> tuple[list[Folder], list[Folder]]:
    """Return the folders of adapters and of image encoders, including those in ControlNet's settings."""
    extensions = Path(paths_internal.extensions_dir)
    installed = sorted(extensions.iterdir()) if extensions.is_dir() else []
    adapters, encoders = model_folders(Path(paths_internal.models_path), installed)
    named = (getattr(shared.cmd_opts, "controlnet_dir", None), shared.opts.data.get("control_net_models_path"))
    return [*adapters, *(Folder(Path(path)) for path in named if path)], encoders
