"""Checkpoints in evidence commands: one is known by its file, whatever hash a WebUI adds to its title meanwhile."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from coco_stand_ins import Draws, draw_all, entries
from test_evaluate_pair import INFOTEXT, Painter, Png

from amdm_lab.checkpoints import listed_file
from amdm_lab.cli import run
from amdm_lab.coco_mig import benchmark, command
from amdm_lab.coco_mig.recipes import Recipe
from amdm_lab.drawing import Drawer
from amdm_lab.gpu.command import _listed as listed_for_gpu
from amdm_lab.pair.from_pictures import read_pictures
from amdm_lab.pair.subjects import Subject
from amdm_lab.pair.ways import PICTURES, new_pair, wanted, ways
from amdm_lab.runs import draw_missing
from amdm_lab.store import Store
from lib_amdm.errors import AmdmError

PLAIN, HASHED = "sub/v1-5.safetensors", "sub/v1-5.safetensors [6ce0161689]"
BETA, BETA_HASHED = "beta.ckpt", "beta.ckpt [fe4efff1e1]"
NAMES = (PLAIN, HASHED, "sub/v1-5.safetensors [aaaaaaaaaa]", "v1-5.safetensors", "v1-5", "V1-5.SafeTensors")
"""Words that a user may write for it: titles of before and after, and from elsewhere; names."""


def lists() -> list[list[str]]:
    """The same files with no hash, with one, with both."""
    return [[PLAIN, BETA], [HASHED, BETA], [HASHED, BETA_HASHED]]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    draws = Draws()
    monkeypatch.setattr(command, "drawer_at", lambda *place: draws)
    return draws


@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("after", range(3))
def test_a_benchmark_goes_on_after_its_checkpoint_got_a_hash(
    tmp_path: Path, draws: Draws, before: int, after: int
) -> None:
    bench, settings = tmp_path / "bench.json", tmp_path / "mine.json"
    benchmark.write(entries(), bench)
    out = ["--out", str(tmp_path / "out"), "--bench", str(bench), "--url", "x", "--settings", str(settings)]
    for titles in (lists()[before], lists()[after]):
        settings.write_text(json.dumps({"enabled": True, "co_models": [{"checkpoint": titles[1]}]}))
        draws.checkpoints = partial(list, titles)  # type: ignore[method-assign]
        assert run("coco-mig", [*out, "--checkpoint", titles[0], "--entries", "5"]) == 0
    assert len(draws.orders) == 5
    assert {order.checkpoint for order in draws.orders} == {PLAIN}


def test_a_record_of_a_title_with_a_hash_still_counts(tmp_path: Path) -> None:
    recipe = Recipe("mine", "mine", {"enabled": True, "co_models": [{"checkpoint": "b"}]})
    store = Store(tmp_path)
    draw_all(store, Draws(), recipes=[recipe])
    for file in tmp_path.glob("mine/*.json"):
        record = json.loads(file.read_text())
        record["order"]["checkpoint"] += " [0123456789]"
        file.write_text(json.dumps(record))
    assert len(draw_all(store, Draws(0), recipes=[recipe])) == 5


@pytest.mark.parametrize("titles", lists())
@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_the_file_in_every_command(titles: list[str], name: str) -> None:
    class Lists:
        def checkpoints(self) -> list[str]:
            return titles

        def request(self, path: str, body: object = None) -> object:
            return None

    drawer: Drawer = Lists()  # type: ignore[assignment]
    assert listed_file(name, titles, "--main") == PLAIN
    assert listed_for_gpu(Namespace(main=name, co=[BETA]), drawer, []) == [PLAIN, BETA]  # type: ignore[arg-type]


def test_a_hash_alone_is_a_name() -> None:
    assert listed_file("6ce0161689", [BETA, HASHED], "--main") == PLAIN
    with pytest.raises(AmdmError, match='"6ce016168" is not in the list'):
        listed_file("6ce016168", [BETA, HASHED], "--main")


def test_a_pair_is_drawn_once_whatever_its_titles_were(tmp_path: Path) -> None:
    subjects = [Subject("a red square", 1, "a blue circle")]
    for titles in lists():
        painter = Painter()
        main, co = (listed_file(name, titles, "--main") for name in titles)
        of_pair = new_pair(main, co, {"steps": 20, "width": 8, "height": 8})
        pictures = wanted(of_pair, ways(of_pair, ["gamma=0.7"], [0.5], "defaults"), subjects, "a painter")
        draw_missing(painter, Store(tmp_path), list(pictures.values()), "a painter", warm_up=True)
        assert bool(painter.asked) == (titles == lists()[0])
    assert len(list((tmp_path / PICTURES).glob("*.json"))) == 5


@pytest.mark.parametrize("titles", lists())
@pytest.mark.parametrize("co", [BETA, BETA_HASHED])
def test_a_picture_says_its_models_whatever_their_titles_are_now(tmp_path: Path, titles: list[str], co: str) -> None:
    (tmp_path / "0.png").write_bytes(b"")
    png = Png({**INFOTEXT, "Model": "v1-5", "AMDM 1 checkpoint": co})
    png.checkpoints = lambda: titles  # type: ignore[method-assign]
    found, _ = read_pictures(png, [tmp_path / "0.png"])  # type: ignore[arg-type]
    assert (found.main, found.co, found.slot.checkpoint) == (PLAIN, BETA, BETA)
