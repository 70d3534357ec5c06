"""The benchmark of AMDM against other ways: `python -m lib_amdm.shapes.benchmark`."""
