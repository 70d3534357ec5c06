"""Names and sentences on a real WebUI: checkpoints by their files, and settings that run nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lib_amdm.comodels.file_list import without_hash

from .probed import Probed, distance, settings, slot


@pytest.fixture
def hashed(probed: Probed) -> Iterator[str]:
    """The title of `beta` once the WebUI has read its hash."""
    probed.server.use_checkpoint("beta")
    # some load it for a picture alone
    probed.draw()
    try:
        yield probed.server.title("beta")
    finally:
        probed.server.use_checkpoint("alpha")


def test_a_checkpoint_is_known_by_its_file_before_and_after_its_title_has_a_hash(
    probed: Probed, request: pytest.FixtureRequest
) -> None:
    first = probed.draw(settings(slot("beta")))
    title = request.getfixturevalue("hashed")
    probed.server.use_checkpoint("alpha")
    file, digest = without_hash(title), title[len("beta.safetensors [") : -1]
    assert digest
    names = [file, file.upper(), title, title.upper(), "beta", f"Beta [{digest}]", f"{file} [0123456789]"]
    names += [digest, digest.upper()]
    for name in names:
        drawn = probed.draw(settings({"checkpoint": name}))
        assert distance(drawn.latent, first.latent) == 0, name
        assert without_hash(title) in drawn.infotext
    # kept in memory once, whatever it was called
    assert probed.models().count(file) == 1


@pytest.mark.parametrize(
    ("idle", "said"),
    [
        (settings(slot(gamma=0)), "raise gamma"),
        (settings(steps=0), "raise steps"),
        (settings(steps=2, start=2), "lower start"),
        (settings(steps="auto", start=100), "lower it"),
        (settings(slot(enabled=False)), "switch one on"),
        ({"enabled": True}, "choose a checkpoint"),
    ],
)
def test_what_runs_nothing_says_so_and_draws_the_main_models_picture(
    probed: Probed, idle: dict[str, Any], said: str
) -> None:
    plain = probed.draw()
    drawn = probed.draw(idle)
    assert drawn.comments.startswith("AMDM: ") and said in drawn.comments
    assert drawn.infotext == plain.infotext
    assert distance(drawn.latent, plain.latent) == 0


def test_a_gamma_that_begins_at_0_and_ends_above_it_is_run(probed: Probed) -> None:
    drawn = probed.draw(settings(slot(gamma=0, gamma_end=0.8), steps=3))
    assert drawn.comments == "" and "AMDM ran" in drawn.infotext
