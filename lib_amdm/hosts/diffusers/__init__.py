"""diffusers: a pipeline with other pipelines alongside it in its first steps.

    from lib_amdm.hosts.diffusers import CoPipeline, amdm_pipeline
    together = amdm_pipeline(pipe, [CoPipeline(other, "a watercolour of a castle", gamma=0.5)])
    image = together("a castle on a hill", num_inference_steps=30).images[0]

A pipeline is wrapped, and not its scheduler alone: a scheduler knows neither the VAE of its latents nor, where they are
packed, their height and width.
"""

from .co_pipeline import CoPipeline
from .main_pipeline import amdm_pipeline

__all__ = ["CoPipeline", "amdm_pipeline"]
