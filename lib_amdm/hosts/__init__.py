"""Where AMDM runs: one file per host, and no file imports another host's modules."""
