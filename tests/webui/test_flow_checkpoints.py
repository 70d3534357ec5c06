"""The small checkpoints of flow families: Forge Neo loads them, and draws with them what they make of the request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .flow_checkpoints import FAMILIES
from .flow_webui import FlowWebUI
from .hosts import Host

DRAWING = {"steps": 4, "cfg_scale": 1}


@pytest.fixture(scope="module")
def flow_webui_alone(
    webui_host: Host, flow_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FlowWebUI]:
    """A server without AMDM."""
    server = FlowWebUI(webui_host, tmp_path_factory.mktemp("flow"), models=flow_models, first="flux-a")
    with server:
        yield server


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_draws(webui_host: Host, flow_webui_alone: FlowWebUI, family: str) -> None:
    if family not in webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no {family}")

    def drawn(letter: str = "a", **told: object) -> np.ndarray:
        answer = flow_webui_alone.txt2img(checkpoint=f"{family}-{letter}", **{**DRAWING, **told})
        return flow_webui_alone.pixels(answer)[0].astype(int)

    start = len(flow_webui_alone.log)
    picture = drawn()
    assert picture.std() > 30
    assert np.array_equal(drawn(), picture)
    for other in (drawn(prompt="a blue circle on a hill"), drawn(cfg_scale=3), drawn(seed=2)):
        assert other.std() > 30
        assert abs(other - picture).mean() > 2
    assert abs(drawn("b") - picture).mean() > 10
    assert "Missing: [" not in flow_webui_alone.log[start:]
    assert not flow_webui_alone.errors(start)
