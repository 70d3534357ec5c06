"""Aggregation of Multi Diffusion Models: several models with one latent space draw one picture together.

The pure core is `aggregation` and `sampling`, which import torch alone; everything a WebUI needs stands above it.
"""

__version__ = "0.3.0"
