"""The same checkpoints, settings and seeds on A1111 and on another WebUI: AMDM adds nothing to what sets them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from .conftest import REPOSITORY
from .hosts import A1111, Host
from .probed import OPTIONS, Probed, settings, slot
from .webui_server import WebUI

SEEDS = range(1, 4)
STEPS = 8
AMDM = {
    "gamma 0.5": settings(slot("beta"), steps=3),
    "gamma 0.7, own prompt and noise": settings(
        slot("beta", gamma=0.7, prompt="a blue circle", noise="independent"), steps=4, eta=0.2
    ),
}


@pytest.fixture(scope="module")
def a1111(webui_host: Host, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    """A1111 with the checkpoints of the WebUI under test."""
    if webui_host is A1111 or A1111.directory() is None:
        pytest.skip(f"needs {A1111.directory_variable} beside another WebUI")
    folder = tmp_path_factory.mktemp("across")
    with WebUI(A1111, folder, checkpoints=checkpoint_dir, extension=REPOSITORY, probe=True, options=OPTIONS) as server:
        yield Probed(server)


def test_amdm_sets_two_webuis_no_further_apart(a1111: Probed, probed: Probed) -> None:
    """A1111 shows its models fractions of timesteps and the others whole ones, which sets their own pictures apart."""

    def apart(amdm: dict | None, seed: int) -> float:
        one, other = (each.draw(amdm, seed=seed, steps=STEPS, scheduler="Karras").picture for each in (a1111, probed))
        return float(np.abs(one.astype(float) - other).mean())

    plain = [apart(None, seed) for seed in SEEDS]
    found = {name: [apart(amdm, seed) for seed in SEEDS] for name, amdm in AMDM.items()}
    print(f"without AMDM {np.mean(plain):.3f} of 255", {name: f"{np.mean(each):.3f}" for name, each in found.items()})
    assert {name for name, each in found.items() if np.mean(each) > np.mean(plain)} == set()
