"""AMDM in the details that an extension draws inside a picture: in which it acts, where in them, and what is said.

`detailer/` draws boxes of the test's choice as ADetailer draws faces; the real one is in test_neighbours.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY
from .hosts import Host
from .probed import OPTIONS, Drawn, Probed, distance, settings, slot
from .test_neighbours import WithNeighbours

PARTS = Path(__file__).parent
WIDTH, HEIGHT = 128, 64
LEFT, RIGHT = [8, 16, 40, 48], [88, 16, 120, 48]


@pytest.fixture(scope="module")
def detailed(webui_host: Host, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probed]:
    neighbours = tmp_path_factory.mktemp("detailers")
    (neighbours / "amdm-detailer").symlink_to(PARTS / "detailer")
    parts: dict[str, Any] = {"checkpoints": checkpoint_dir, "extension": REPOSITORY, "probe": True, "options": OPTIONS}
    with WithNeighbours(webui_host, tmp_path_factory.mktemp("detailed"), neighbours, **parts) as server:
        yield Probed(server)


def draw(detailed: Probed, amdm: Any, *boxes: list[list[int]], detailer: Any = None, **request: Any) -> Drawn:
    """Draw with details in each picture's boxes."""
    size = {"width": WIDTH, "height": HEIGHT}
    scripts = {"AMDM detailer": {"args": [json.dumps({"boxes": boxes, "width": 64, "height": 64, **(detailer or {})})]}}
    return detailed.draw(amdm, alwayson_scripts=scripts, **{**size, **request})


def of(which: str, *slots: Any, **more: Any) -> dict[str, Any]:
    return settings(*slots, **{"pass": which, **more})


def test_by_default_details_are_drawn_without_amdm(detailed: Probed) -> None:
    first = detailed.draw(settings(), width=WIDTH, height=HEIGHT)
    drawn = draw(detailed, settings(), [LEFT])
    assert drawn.report["unet"]["co"] == first.report["unet"]["co"] > 0
    assert distance(drawn.picture, first.picture) > 0
    assert "detail" not in drawn.infotext
    assert [len(each) for each in (drawn.latents, first.latents)] == [1, 1]
    assert distance(drawn.latent, first.latent) == 0


@pytest.mark.parametrize(("which", "in_first"), [("detailer", False), ("all", True)])
def test_details_run_the_co_models(detailed: Probed, which: str, in_first: bool) -> None:
    plain = draw(detailed, settings() if in_first else None, [LEFT])
    drawn = draw(detailed, of(which), [LEFT])
    assert distance(drawn.latent, plain.latent) == 0
    x0, y0, x1, y1 = LEFT
    differs = abs(drawn.picture.astype(int) - plain.picture).max(axis=-1) > 0
    assert differs[y0:y1, x0:x1].mean() > 0.5 and not differs[:, x1 + 8 :].any()
    assert ("; " if in_first else 'AMDM ran: "') + "detail 1: 2 models, 2 of " in drawn.infotext
    assert f"AMDM pass: {which}" in drawn.infotext
    assert list(drawn.info["extra_generation_params"]["AMDM passes"]) == ["first"] * in_first + ["detail 1"]
    assert drawn.comments == ""


def test_the_next_picture_is_as_before(detailed: Probed) -> None:
    restored = {"override_settings_restore_afterwards": True}
    before = draw(detailed, settings(), [LEFT], **restored)
    draw(detailed, of("all"), [LEFT], **restored)
    after = draw(detailed, settings(), [LEFT], **restored)
    assert distance(after.picture, before.picture) == 0
    assert after.untimed == before.untimed


def test_each_picture_names_its_own_details(detailed: Probed) -> None:
    drawn = draw(detailed, of("all"), [LEFT, RIGHT], [], [LEFT], [], batch_size=2, n_iter=2)
    details = [text.count("; detail ") for text in drawn.info["infotexts"]]
    assert details == [2, 0, 1, 0]
    only = draw(detailed, of("detailer"), [], [LEFT], [], [RIGHT, LEFT], batch_size=2, n_iter=2)
    assert ["AMDM pass: detailer" in text for text in only.info["infotexts"]] == [False, True, False, True]


def test_a_region_is_where_it_is_in_the_picture(detailed: Probed) -> None:
    everywhere = draw(detailed, of("detailer"), [LEFT])
    on_left = of("detailer", slot(region="0 0 0.5 1"))
    inside = draw(detailed, on_left, [LEFT])
    assert distance(inside.picture, everywhere.picture) == 0
    outside = draw(detailed, on_left, [RIGHT])
    assert distance(outside.picture, draw(detailed, None, [RIGHT]).picture) == 0
    assert outside.report["unet"]["co"] == 0
    # a crop that the region ends in
    middle = [32, 0, 95, 63]
    half, same, all_of_it, nothing = (
        draw(detailed, amdm, [middle]).picture
        for amdm in (on_left, of("detailer", slot(region="0.25 0 0.5 1")), of("detailer"), None)
    )
    assert distance(half, same) == 0
    assert distance(half, all_of_it) > 0 and distance(half, nothing) > 0


def test_a_detail_of_the_whole_picture_has_the_whole_region(detailed: Probed) -> None:
    on_left = of("detailer", slot(region="0 0 0.5 1"))
    drawn = draw(detailed, on_left, [LEFT], detailer={"whole": True, "width": WIDTH, "height": HEIGHT})
    plain = draw(detailed, None, [LEFT], detailer={"whole": True, "width": WIDTH, "height": HEIGHT})
    assert drawn.report["unet"]["co"] > 0
    assert distance(drawn.picture, plain.picture) > 0


def test_an_error_is_said_and_the_detail_drawn_without_amdm(detailed: Probed) -> None:
    plain = draw(detailed, None, [LEFT])
    drawn = draw(detailed, of("detailer", slot("missing")), [LEFT])
    assert distance(drawn.picture, plain.picture) == 0
    assert '"missing.safetensors" is not in the WebUI\'s list of checkpoints' in drawn.comments
    assert "AMDM" not in drawn.infotext


def test_a_comparison_is_drawn_once(detailed: Probed) -> None:
    bare = detailed.draw(of("all", compare=True), width=WIDTH, height=HEIGHT)
    drawn = draw(detailed, of("all", compare=True), [LEFT])
    assert len(drawn.pixels) == len(bare.pixels) == 4
    assert len(drawn.latents) == len(bare.latents) == 3
    plain = draw(detailed, None, [LEFT])
    assert any(distance(picture, plain.picture) == 0 for picture in drawn.pixels), "the main model alone"
