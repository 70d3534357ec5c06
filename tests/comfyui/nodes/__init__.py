"""Nodes of the tests: words without a text encoder, small models, and a count of a model's evaluations."""

import sys

if "comfy_api" in sys.modules:
    from .nodes import comfy_entrypoint as comfy_entrypoint
