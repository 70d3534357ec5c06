"""The small networks and their training: `python -m lib_amdm.shapes.training PART`."""
