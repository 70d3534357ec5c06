"""Common to all tests: the package from this checkout, one thread, Hypothesis at a size that keeps the suite short."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# the tests' tensors are small: threads cost them more than they gain, and more where pytest runs several processes
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# no deadline: the first call of a torch function can take a hundred times as long as the next ones
settings.register_profile(
    "short", max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("short")
torch.set_num_threads(1)

TOGETHER = (
    "comfyui",
    "test_bench",
    "test_demo",
    "test_demo_page",
    "test_device_pictures",
    "test_diffusers",
    "test_evaluate_gpu",
    "test_flow",
    "test_layout_editor",
    "test_shapes_adapters",
    "test_standalone",
    "test_standalone_adapters",
    "webui",
)
"""Files and folders whose tests share what is costly to make; one process runs all of them."""
LONG = ("test_style", "test_wide", "test_styles")
"""Files with single tests that take ten seconds."""


# before pytest-xdist reads the marks
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that pytest-xdist must not spread, and let those begin, for which others would wait."""
    for item in items:
        for place in {item.path.stem, item.path.parent.name} & set(TOGETHER):
            item.add_marker(pytest.mark.xdist_group(place))
    items.sort(key=lambda item: (item.get_closest_marker("xdist_group") is None, item.path.stem not in LONG))


@pytest.fixture(autouse=True, scope="module")
def what_is_loaded_stays() -> None:
    """Keep the garbage collector from walking through torch's and gradio's modules in every test that calls it."""
    gc.collect()
    gc.freeze()
