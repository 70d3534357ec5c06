"""The hosts in which AMDM runs, a folder each: WebUIs, and diffusers. None imports another's modules."""
