"""The benchmark of AMDM against other ways: `python -m amdm_lab shapes`."""
