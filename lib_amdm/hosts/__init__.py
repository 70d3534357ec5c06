"""The places where AMDM runs: a folder for each host, and none imports another host's modules."""
