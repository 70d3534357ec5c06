"""No WebUI: diffusers, transformers and k-diffusion on files in Stable Diffusion 1's format."""
