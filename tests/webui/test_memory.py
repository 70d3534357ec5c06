"""Many pictures with changing co-models do not grow the process, and a co-model that is forgotten is gone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .probed import Probed, settings, slot
from .webui_server import WebUI

PICTURES = 50
RELOADS = 200
CO_MODELS = ("beta", "gamma", "vpred")
SOAK = 60
SETTLED = 20
"""The requests after which nothing may grow any more,"""
ALLOCATORS = 1.05
"""but for what allocators keep."""
TITLES = [f"soak-{number}" for number in range(10)]
SAMPLERS = ("Euler", "Euler a", "DPM++ 2M", "Heun", "DDIM")
WORDS = ("red", "green", "blue", "round", "square", "old", "new", "wide", "small", "bright")


@pytest.fixture(scope="module")
def own(start_webui: Callable[..., WebUI]) -> WebUI:
    """A server that keeps one co-model, so that every picture of another one loads it anew."""
    return start_webui(probe=True, options={"amdm_pool_limit": 1})


def test_fifty_pictures_with_changing_co_models(own: WebUI) -> None:
    probed = Probed(own)
    # Forge loads its main model with the first picture
    probed.draw(steps=2)
    sizes = []
    for index in range(PICTURES):
        name = CO_MODELS[index % len(CO_MODELS)]
        drawn = probed.draw(settings(slot(name), steps=1), steps=2)
        assert drawn.report["opened"] == [f"{name}.safetensors"] * own.host.opens
        sizes.append(own.memory)
    co_model = probed.server.call("/amdm/v1/models")["loaded"][0]["bytes"]
    print([round(size / 1e6) for size in sizes], round(co_model / 1e6))
    # allocators keep some of what they were given; one co-model that stays would be seen many times over
    settled, end = max(sizes[5:15]), max(sizes[-10:])
    assert end - settled < 0.5 * co_model, sizes


def test_two_hundred_reloads_leave_no_tensor_and_no_module(own: WebUI) -> None:
    probed = Probed(own)

    def reload(times: int) -> tuple[dict[str, int], int]:
        """The objects that are in the process afterwards, and its size in bytes."""
        for index in range(times):
            drawn = probed.draw(settings(slot(CO_MODELS[index % 2]), steps=1), steps=1)
            assert len(drawn.report["opened"]) == own.host.opens
        own.call("/amdm-probe/arm", {})
        return own.call("/amdm-probe/objects"), own.memory

    # Forge loads its main model with the first picture
    probed.draw(steps=1)
    before, size = reload(20)
    after, larger = reload(RELOADS)
    print(f"{RELOADS} reloads: {before} -> {after}; {size / 1e6:.0f} -> {larger / 1e6:.0f} MB")
    assert after == before


def test_unloading_leaves_no_unet_but_the_main_models(start_webui: Callable[..., WebUI]) -> None:
    """At once, and not when Python next collects."""
    probed = Probed(start_webui(probe=True, options={"amdm_pool_limit": 3}))
    own = probed.server
    probed.draw(settings(*map(slot, CO_MODELS)), steps=2)
    assert own.call("/amdm-probe/unets") == 1 + len(CO_MODELS)
    # the probe's own record refers to what it has seen
    own.call("/amdm-probe/arm", {})
    assert probed.unload()["unloaded"] == len(CO_MODELS)
    assert own.call("/amdm-probe/unets") == 1


def random_request(chosen: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """AMDM's settings, and the parameters of a picture."""

    def prompt() -> str:
        return " ".join(chosen.sample(WORDS, 4))

    slots = [
        slot(
            name,
            gamma=chosen.choice((0.2, 0.5, 0.9)),
            noise=chosen.choice(("shared", "independent")),
            prompt=chosen.choice(("", prompt())),
            cfg_scale=chosen.choice((0, 2)),
        )
        for name in chosen.sample([*TITLES, "main"], chosen.choice((1, 2)))
    ]
    ours = settings(*slots, steps=chosen.choice((1, 2)), evaluations=chosen.choice((0, 1)))
    picture = {
        "prompt": prompt(),
        "seed": chosen.randrange(2**31),
        "sampler_name": chosen.choice(SAMPLERS),
        "width": chosen.choice((64, 96)),
        "batch_size": chosen.choice((1, 2)),
        "steps": 3,
    }
    return ours, picture


def test_sixty_random_requests_with_ten_co_models_stay_flat(
    start_webui: Callable[..., WebUI], checkpoint_dir: Path
) -> None:
    """And the picture without AMDM is the same to the byte after them."""
    server = start_webui(probe=True, options={"amdm_pool_limit": 2})
    for number, title in enumerate(TITLES):
        for source in checkpoint_dir.glob(f"{('alpha', *CO_MODELS)[number % 4]}.*"):
            (server.checkpoint_folder / f"{title}{source.suffix}").symlink_to(source)
    server.refresh_checkpoints()
    probed, chosen = Probed(server), random.Random(5)
    before = probed.draw()
    sizes = []
    for _ in range(SOAK):
        ours, picture = random_request(chosen)
        probed.draw(ours, **picture)
        sizes.append(server.memory)
    print([round(size / 1e6) for size in sizes])
    after = probed.draw()
    assert np.array_equal(after.latent, before.latent)
    assert np.array_equal(after.picture, before.picture)
    assert max(sizes[-10:]) < ALLOCATORS * max(sizes[:SETTLED]), sizes
