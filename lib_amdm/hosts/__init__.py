"""Where AMDM runs: a folder for each host, and none imports another host's modules."""
