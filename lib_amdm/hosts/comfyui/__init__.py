"""The door to ComfyUI: nodes that put co-models on a MODEL, and their part in a sampler's run."""
