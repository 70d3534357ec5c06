"""The hosts in which AMDM runs, a folder each. None imports another's modules."""
