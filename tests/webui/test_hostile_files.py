"""Files that would run code where they are unpickled: AMDM hands none of them to a reader of the WebUI's that does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import random_adapters
from hostile_files import HOSTILE, evil
from random_adapters import IP_ADAPTER

from .probed import Probed, settings, slot
from .test_adapters import adapter
from .test_failures import is_a_sentence

EACH = pytest.mark.parametrize("number", range(len(HOSTILE)), ids=list(HOSTILE))


@pytest.fixture(scope="module")
def marker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is made where any of the files' code is run."""
    return tmp_path_factory.mktemp("marker") / "ran"


@pytest.fixture(scope="module")
def hostile(probed: Probed, marker: Path) -> Iterator[None]:
    """Every kind of hostile file as a checkpoint, a LoRA, an adapter and an image encoder."""
    models = probed.server.data / "models"
    folders = (probed.server.checkpoint_folder, models / "Lora", models / "amdm", models / "clip_vision")
    written = []
    for folder in folders:
        folder.mkdir(exist_ok=True)
        for number, packed in enumerate(HOSTILE.values()):
            suffix = ".ckpt" if folder == probed.server.checkpoint_folder else ".pt"
            # in the list of encoders it is one that its name says is wanted
            path = folder / f"hostile-{number}_vit-h{suffix}"
            path.write_bytes(packed(evil(marker)))
            written.append(path)
    probed.server.refresh_checkpoints()
    yield
    for path in written:
        # Forge gives a file that cannot be read another name
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
    probed.server.refresh_checkpoints()


@EACH
def test_a_checkpoint(probed: Probed, hostile: None, marker: Path, number: int) -> None:
    failed = probed.fail(settings(slot(f"hostile-{number}_vit-h.ckpt")))
    assert is_a_sentence(failed.message), failed.message
    assert f'co-model 1: "hostile-{number}_vit-h.ckpt" cannot be read (it ' in failed.message
    assert not marker.exists()


@EACH
def test_a_lora(probed: Probed, hostile: None, marker: Path, number: int) -> None:
    failed = probed.fail(settings(slot("beta", prompt=f"x <lora:hostile-{number}_vit-h:1>")))
    assert is_a_sentence(failed.message), failed.message
    assert f'the LoRA "hostile-{number}_vit-h" cannot be read (it ' in failed.message
    assert not marker.exists()


@EACH
def test_an_adapter(probed: Probed, hostile: None, marker: Path, number: int) -> None:
    name = f"hostile-{number}_vit-h.pt"
    failed = probed.fail(settings(slot("main", adapter=name, layout="a: 0 0 1 1")))
    assert is_a_sentence(failed.message), failed.message
    assert f'co-model 1: "{name}" ' in failed.message
    assert name in probed.server.call("/amdm/v1/models")["adapters"]
    assert not marker.exists()


def test_an_image_encoder(probed: Probed, hostile: None, marker: Path) -> None:
    """All of them are asked before the one that can be used, which is named for nothing."""
    random_adapters.write(
        probed.server.data / "models" / "amdm",
        random_adapters.Shape.of(probed.server.checkpoint_folder / "alpha.safetensors"),
    )
    told = settings(slot("main", **adapter(IP_ADAPTER)))
    drawn = probed.draw(told)
    assert np.isfinite(drawn.latent).all() and IP_ADAPTER in drawn.infotext
    assert not marker.exists()
