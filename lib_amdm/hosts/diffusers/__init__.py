"""diffusers: a pipeline with other pipelines alongside it in its first steps (docs/python.md)."""

from .pipelines import CoPipeline, amdm_pipeline

__all__ = ["CoPipeline", "amdm_pipeline"]
