"""What AMDM draws, against other ways: `python -m lib_amdm.shapes.benchmark`."""
