"""The small networks and their training: `python -m amdm_lab train PART`."""
