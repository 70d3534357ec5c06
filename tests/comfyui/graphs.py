"""Workflows as ComfyUI's API has them."""

from __future__ import annotations

from itertools import count
from typing import Any

from .server import Graph

Link = list[Any]
SIZE = 32
KEPT = ("alpha", "alpha-copy", "beta")
"""The checkpoints that stay loaded from one prompt to the next."""


class Drawing:
    """A graph that draws latents and saves them. Every call adds a node, and returns the link to its first output."""

    def __init__(self) -> None:
        self.graph: Graph = {}
        self._ids = count(1)
        self._loaded: dict[str, Link] = {}
        # ComfyUI forgets what the next prompt does not have
        self._loaded = {name: self.checkpoint(name) for name in KEPT}

    def node(self, kind: str, **inputs: Any) -> Link:
        """Add a node."""
        number = str(next(self._ids))
        self.graph[number] = {"class_type": kind, "inputs": inputs}
        return [number, 0]

    def checkpoint(self, name: str) -> Link:
        """Load a model."""
        if name in self._loaded:
            return self._loaded[name]
        return self.node("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")

    def words(self, seed: int, width: int = 768) -> Link:
        """Make a conditioning."""
        return self.node("TestWords", seed=seed, width=width)

    def counted(self, model: Link, name: str) -> Link:
        """Count a model's evaluations."""
        return self.node("TestCounted", model=model, name=name)

    def mask(self, value: float, size: int = SIZE) -> Link:
        """Make a mask of one value."""
        return self.node("SolidMask", value=value, width=size, height=size)

    def left(self, size: int = SIZE) -> Link:
        """Make a mask of the left half."""
        half = self.node("SolidMask", value=1.0, width=size // 2, height=size)
        fields = {"x": 0, "y": 0, "operation": "add"}
        return self.node("MaskComposite", destination=self.mask(0.0, size), source=half, **fields)

    def lora(self, model: Link, strength: float = 1.0) -> Link:
        """Put the LoRA on a model."""
        return self.node("LoraLoaderModelOnly", model=model, lora_name="lora.safetensors", strength_model=strength)

    def empty(self, batch: int = 1, size: int = SIZE) -> Link:
        """Make an empty latent."""
        return self.node("EmptyLatentImage", width=size, height=size, batch_size=batch)

    def amdm(self, model: Link, co_model: Link | None = None, **values: Any) -> Link:
        """Add a co-model; none is the main model."""
        fields = {"gamma": 0.5, "gamma_end": "", "region": "", "feather": 0.0, "eta": 0.0, "cfg_scale": 0.0}
        given = {**fields, "noise": "shared", **values}
        return self.node("AMDM", model=model, **given, **({"co_model": co_model} if co_model else {}))

    def settings(self, model: Link, **values: Any) -> Link:
        """Set what all co-models share."""
        fields = {"steps": "auto", "evaluations": "auto", "eta": 0.0, "start": 0, "correction": "relative"}
        return self.node("AMDMSettings", model=model, **{**fields, **values})

    def alone(self, model: Link, co_model: Link | None, **values: Any) -> Link:
        """Let a co-model determine the picture: in all steps, evaluated in each, with a gamma of 1."""
        return self.settings(self.amdm(model, co_model, gamma=1.0, **values), steps=150, evaluations=0)

    def sample(self, model: Link, **values: Any) -> Link:
        """Draw with KSampler."""
        fields: dict[str, Any] = {"seed": 5, "steps": 6, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
        given = {**fields, "denoise": 1.0, **values}
        given.setdefault("positive", self.words(1))
        given.setdefault("negative", self.words(2))
        given.setdefault("latent_image", self.empty())
        return self.node("KSampler", model=model, **given)

    def saved(self, latents: Link) -> Graph:
        """Save latents, and return the graph."""
        self.node("SaveLatent", samples=latents, filename_prefix="latents/test")
        return self.graph
