"""AMDM on the bundled checkpoints: `python -m amdm_lab demo`, one picture, or a page in a browser."""
