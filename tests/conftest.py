"""What all tests share: the package from this checkout, and Hypothesis at a size that keeps the suite short."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# no deadline: the first call of a torch function can take a hundred times as long as the next ones
settings.register_profile(
    "short", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("short")

# the tests' tensors are small: threads cost them more than they gain
torch.set_num_threads(1)
