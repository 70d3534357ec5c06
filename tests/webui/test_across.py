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

SEEDS = range(1, 7)
STEPS = 8
# without a pull the mix is a rotation, which makes no difference larger
MIXED = settings(slot("beta", eta=0), steps=4, eta=0)
# pulled towards their means, latents get smaller, and these untrained models answer to their direction alone
DEFAULTS = {"enabled": True, "co_models": [slot("beta")]}


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

    def apart(amdm: dict | None) -> float:
        differences = []
        for seed in SEEDS:
            one, other = (each.draw(amdm, seed=seed, steps=STEPS, scheduler="Karras") for each in (a1111, probed))
            differences.append(np.abs(one.picture.astype(float) - other.picture).mean())
        return float(np.mean(differences))

    plain, mixed, pulled = apart(None), apart(MIXED), apart(DEFAULTS)
    print(f"of 255: without AMDM {plain:.3f}, mixed {mixed:.3f}, mixed and pulled {pulled:.3f}")
    assert mixed <= plain
    assert pulled <= 1.5 * plain
