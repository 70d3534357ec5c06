"""Evidence by command, on models that the user names: `python -m lib_amdm.evaluate`."""
