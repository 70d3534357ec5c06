"""COCO-MIG's command: pictures drawn, interrupted and gone on with, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coco_form import random_pictures, write
from coco_stand_ins import BASE, METHODS, Draws, Sees, draw_all, entries, method
from PIL import Image

from amdm_lab.cli import run as run_command
from amdm_lab.coco_mig import benchmark, command, judge
from amdm_lab.coco_mig.segmenter import WholeBox
from amdm_lab.store import Store
from lib_amdm.errors import AmdmError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def contents(store: Store) -> dict[str, bytes]:
    return {str(f.relative_to(store.root)): f.read_bytes() for f in store.root.rglob("*") if f.is_file()}


# --- drawing ---


def test_every_entry_is_drawn_by_every_method_as_it_is_ordered(store: Store) -> None:
    draws = Draws()
    draw_all(store, draws)
    assert [order.seed for order in draws.orders] == [100, 100, 101, 101, 102, 102, 103, 103, 104, 104]
    for entry in entries():
        for each in METHODS:
            name = f"{each.name}/{entry.key}"
            record = store.record(name)
            assert record is not None
            assert record.order["prompt"] == entry.caption and record.order["steps"] == 4
            rows = record.order["settings"]["main_adapter"]["layout"]
            assert [row["phrase"] for row in rows if "phrase" in row] == [i.label for i in entry.instances]
            assert (record.place, record.evaluations) == ("a test", {"alpha": 4})
            with Image.open(store.picture(name)) as picture:
                assert picture.size == (64, 64) and picture.text["parameters"] == record.infotext


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, AmdmError])
@pytest.mark.parametrize("drawn", [0, 1, 5, 9])
def test_an_interrupted_drawing_goes_on_where_it_stopped(
    store: Store, tmp_path: Path, drawn: int, stopped: Callable[..., BaseException]
) -> None:
    class Stop(stopped):  # type: ignore[misc, valid-type] # a class that the parameter names
        def __init__(self) -> None:
            super().__init__("the WebUI ended")

    with pytest.raises(stopped):
        draw_all(store, Draws(drawn, Stop))
    before = contents(store) if drawn else {}
    assert len(before) == 2 * drawn
    rest = Draws()
    records = draw_all(store, rest)
    assert len(rest.orders) == 10 - drawn and len(records) == 10
    assert before.items() <= contents(store).items()
    whole = Store(tmp_path / "whole")
    draw_all(whole, Draws())
    pictures = {name for name in contents(whole) if name.endswith(".png")}
    assert {name: contents(store)[name] for name in pictures} == {name: contents(whole)[name] for name in pictures}
    # nothing is left to draw
    assert draw_all(store, Draws(0)) == records


def test_a_picture_without_its_record_is_drawn_again(store: Store) -> None:
    draw_all(store, Draws())
    store.record_file("one/3").unlink()
    store.picture("two/0").unlink()
    again = Draws()
    draw_all(store, again)
    assert [order.seed for order in again.orders] == [100, 103]


def test_a_record_of_an_earlier_release_counts(store: Store) -> None:
    """Before, a record had no memory, and the pair's had no mark for the first picture of a way."""
    records = draw_all(store, Draws())
    for file in store.root.rglob("*.json"):
        file.write_text(json.dumps({key: v for key, v in json.loads(file.read_text()).items() if key != "memory"}))
    assert draw_all(store, Draws(0)) == records


def test_a_try_of_few_entries_counts_for_all_of_them(store: Store) -> None:
    draw_all(store, Draws(), entries()[2:3])
    rest = Draws()
    draw_all(store, rest)
    assert len(rest.orders) == 8


@pytest.mark.parametrize(
    ("change", "told"),
    [({"steps": 5}, "steps"), ({"seed": 1}, "seed"), ({"checkpoint": "beta"}, "checkpoint"), ({"width": 128}, "width")],
)
def test_pictures_that_were_drawn_otherwise_are_not_mixed_with_these(
    store: Store, change: dict[str, Any], told: str
) -> None:
    draw_all(store, Draws())
    before = contents(store)
    with pytest.raises(AmdmError, match=rf'0\.png" was drawn with other settings \({told}.*choose another --out'):
        draw_all(store, Draws(0), base=replace(BASE, **change))
    with pytest.raises(AmdmError, match=r"other settings \(settings\)"):
        draw_all(store, Draws(0), recipes=[method("one", "other.pth")])
    assert contents(store) == before


def test_a_new_picture_has_nothing_judged_of_an_old_one(store: Store) -> None:
    draw_all(store, Draws())
    judge.judge_all(store, entries(), METHODS, Sees(1), WholeBox())
    store.record_file("one/3").unlink()
    draw_all(store, Draws())
    assert judge.judgement_of(store, "one/3", entries()[3]) is None
    assert judge.judgement_of(store, "two/3", entries()[3]) is not None


# --- the command ---


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return write(tmp_path / "instances.json", random_pictures(150))


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> Draws:
    draws = Draws()
    monkeypatch.setattr(command, "drawer_at", lambda *place: draws)
    return draws


def run(out: Path, *arguments: str) -> int:
    return run_command("coco-mig", ["--out", str(out), *arguments])


def test_the_command_builds_draws_judges_and_reports(
    out: Path,
    coco: Path,
    tmp_path: Path,
    draws: Draws,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("amdm_lab.coco_mig.detector.GroundingDino", lambda folder, device: Sees(0))
    drawing = ("--entries", "10", "--url", "x", "--checkpoint", "alpha", "--methods", "interact,paper", "--size", "64")
    assert run(out, "--annotations", str(coco), *drawing) == 0
    assert len(draws.orders) == 20 and "Nothing was judged" in capsys.readouterr().out
    # as the list has it: a WebUI draws with another checkpoint where it does not know the name
    assert {order.checkpoint for order in draws.orders} == {"alpha.safetensors"}
    assert draws.orders[0].steps == 50 and "lowres" in draws.orders[0].negative_prompt
    # what was built and drawn is found in the folder
    dino = tmp_path / "dino"
    dino.mkdir()
    (dino / "config.json").write_text('{"model_type": "grounding-dino"}')
    assert run(out, "--entries", "10", "--detector", str(dino)) == 0
    told = capsys.readouterr().out
    assert len(draws.orders) == 20 and "20 pictures of 20" in told
    assert (out / "report.md").read_text() in told
    figures = json.loads((out / "report.json").read_text())
    assert set(figures) == {"interact", "paper"} and figures["paper"]["pictures"] == 10
    # and the same call as at first draws nothing
    assert run(out, "--annotations", str(coco), *drawing) == 0 and len(draws.orders) == 20


def test_an_interrupted_command_says_how_it_goes_on(
    out: Path, coco: Path, draws: Draws, capsys: pytest.CaptureFixture[str]
) -> None:
    draws.stop_before = 3
    drawing = ("--annotations", str(coco), "--entries", "10", "--url", "x", "--checkpoint", "alpha")
    assert run(out, *drawing) == 130
    assert "the same command goes on" in capsys.readouterr().err
    draws.stop_before = None
    assert run(out, *drawing) == 0 and len(draws.orders) == 50


BUILT = ("--annotations", "{coco}", "--entries", "10")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "There is no benchmark; name the paper's mig_bench.json with --bench, or COCO's"),
        (("--bench", "lost.json"), '"lost.json" cannot be read as JSON .* name a benchmark'),
        (("--annotations", "lost.json"), '"lost.json" cannot be read as JSON .* name COCO\'s annotations'),
        (("--annotations", "{coco}", "--entries", "4"), "--entries is 4, but there are 5 levels"),
        (("--annotations", "{coco}", "--entries", "1000"), "too few layouts for 1000 entries"),
        (BUILT, "Nothing draws, and .* has no pictures"),
        ((*BUILT, "--url", "x"), r"No checkpoint is named; choose one with --checkpoint \(alpha\.safetensors\)"),
        (
            (*BUILT, "--url", "x", "--checkpoint", "lost"),
            '"lost" is not in the list of checkpoints; choose one',
        ),
        ((*BUILT, "--url", "x", "--migc", "mine"), 'no adapter "mine" is in the list .* or name it with --migc'),
        ((*BUILT, "--url", "x", "--methods", "mine"), '"mine" is not a method; choose among'),
        ((*BUILT, "--url", "x", "--methods", "migc,migc"), '"migc" names two methods'),
        ((*BUILT, "--url", "x", "--detector", "lost"), '--detector: "lost" is no folder of a model'),
        ((*BUILT, "--url", "x", "--segmenter", "lost"), '--segmenter: "lost" is no folder of a model'),
        ((*BUILT, "--url", "x", "--settings", "lost.json"), '"lost.json" cannot be read as JSON .* settings'),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    out: Path, coco: Path, draws: Draws, arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(AmdmError, match=said) as caught:
        run(out, *(argument.format(coco=coco) for argument in arguments))
    assert str(caught.value).count(". ") == 0 and draws.orders == []


def test_another_benchmark_does_not_take_the_place_of_one(out: Path, coco: Path, draws: Draws) -> None:
    drawing = ("--annotations", str(coco), "--entries", "10", "--url", "x", "--checkpoint", "alpha")
    run(out, *drawing)
    with pytest.raises(AmdmError, match="another benchmark than the one that is named; choose another --out"):
        run(out, *drawing, "--bench-seed", "2")


def test_a_benchmark_that_is_named_is_kept_beside_the_pictures(
    out: Path, tmp_path: Path, draws: Draws, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tmp_path / "mine.json"
    benchmark.write(entries(), bench)
    drawing = ("--url", "x", "--checkpoint", "alpha", "--methods", "migc")
    run(out, "--bench", str(bench), *drawing, "--entries", "5")
    bench.unlink()
    capsys.readouterr()
    assert run(out) == 0 and "5 pictures of 5" in capsys.readouterr().out


def test_a_folder_of_models_that_is_none_is_named(out: Path, coco: Path, tmp_path: Path) -> None:
    with pytest.raises(AmdmError, match=r'--models: ".*lost" is no folder'):
        run(out, "--annotations", str(coco), "--entries", "10", "--models", str(tmp_path / "lost"))
