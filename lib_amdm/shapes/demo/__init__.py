"""AMDM on the bundled checkpoints: `python -m lib_amdm.shapes.demo`, one picture, or a page in a browser."""
