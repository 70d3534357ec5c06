"""COCO-MIG's command: pictures drawn, interrupted and gone on with, judged, and the table that comes of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_form import random_pictures, write
from PIL import Image

from lib_amdm.errors import AmdmError
from lib_amdm.evaluate.coco_mig import benchmark, command, judge, report
from lib_amdm.evaluate.coco_mig.benchmark import Entry, Instance, prompt_of
from lib_amdm.evaluate.coco_mig.detector import Detections
from lib_amdm.evaluate.coco_mig.methods import Method
from lib_amdm.evaluate.coco_mig.published import LEVELS, SIZE
from lib_amdm.evaluate.coco_mig.runner import Drawing, Folder, Record, draw_all
from lib_amdm.evaluate.coco_mig.segmenter import WholeBox
from lib_amdm.evaluate.drawing import Drawn, Order

DRAWING = Drawing("alpha", steps=4, size=64, seed=100)
BOXES = [(0.25 * (n % 3), 0.5 * (n // 3), 0.25 * (n % 3) + 0.25, 0.5 * (n // 3) + 0.5) for n in range(6)]


def method(name: str, adapter: str = "MIGC.ckpt") -> Method:
    return Method(name, name.title(), {"enabled": True, "main_adapter": {"adapter": adapter}})


METHODS = [method("one"), method("two", "ext_interactdiff.pth")]


def entries(levels: Sequence[int] = LEVELS) -> list[Entry]:
    made = []
    for number, level in enumerate(levels):
        instances = tuple(Instance(f"a red {'cat' if n % 2 else 'dog'}", BOXES[n]) for n in range(level))
        made.append(Entry(number, str(number), prompt_of([i.label for i in instances]), instances))
    return made


class Draws:
    """Draws pictures whose pixels say what was ordered; stops before a number of them."""

    def __init__(self, stop_before: int | None = None, stopped: type[BaseException] = KeyboardInterrupt) -> None:
        self.orders: list[Order] = []
        self.stop_before, self.stopped = stop_before, stopped

    def draw(self, order: Order) -> Drawn:
        if len(self.orders) == self.stop_before:
            raise self.stopped
        self.orders.append(order)
        tone = (order.seed * 7 + 100 * ("interact" in str(order.settings))) % 256
        picture = Image.new("RGB", (order.width, order.height), (tone, 0, 0))
        return Drawn(picture, float(len(self.orders)), f"{order.prompt}\nSteps: 4", {"alpha": order.steps})

    def checkpoints(self) -> list[str]:
        return ["alpha.safetensors [0123456789]"]

    def adapters(self) -> list[str]:
        return ["MIGC.ckpt", "ext_interactdiff.pth"]

    def description(self) -> str:
        return "a test"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "out")


def contents(folder: Folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder.root)): f.read_bytes() for f in folder.root.rglob("*") if f.is_file()}


# --- drawing ---


def test_every_entry_is_drawn_by_every_method_as_it_is_ordered(folder: Folder) -> None:
    draws = Draws()
    assert draw_all(folder, draws, DRAWING, entries(), METHODS) == 10
    assert [order.seed for order in draws.orders] == [100, 100, 101, 101, 102, 102, 103, 103, 104, 104]
    for entry in entries():
        for each in METHODS:
            record = folder.record(each.name, entry.key)
            assert record is not None
            assert record.order["prompt"] == entry.caption and record.order["steps"] == 4
            rows = record.order["settings"]["main_adapter"]["layout"]
            assert [row["phrase"] for row in rows if "phrase" in row] == [i.label for i in entry.instances]
            assert (record.place, record.evaluations) == ("a test", {"alpha": 4})
            with Image.open(folder.picture(each.name, entry.key)) as picture:
                assert picture.size == (64, 64) and picture.text["parameters"] == record.infotext


@pytest.mark.parametrize("stopped", [KeyboardInterrupt, AmdmError])
@pytest.mark.parametrize("drawn", [0, 1, 5, 9])
def test_an_interrupted_drawing_goes_on_where_it_stopped(
    folder: Folder, tmp_path: Path, drawn: int, stopped: Callable[..., BaseException]
) -> None:
    class Stop(stopped):
        def __init__(self) -> None:
            super().__init__("the WebUI ended")

    with pytest.raises(stopped):
        draw_all(folder, Draws(drawn, Stop), DRAWING, entries(), METHODS)
    before = contents(folder) if drawn else {}
    assert len(before) == 2 * drawn
    rest = Draws()
    assert draw_all(folder, rest, DRAWING, entries(), METHODS) == len(rest.orders) == 10 - drawn
    assert before.items() <= contents(folder).items()
    whole = Folder(tmp_path / "whole")
    draw_all(whole, Draws(), DRAWING, entries(), METHODS)
    pictures = {name for name in contents(whole) if name.endswith(".png")}
    assert {name: contents(folder)[name] for name in pictures} == {name: contents(whole)[name] for name in pictures}
    assert draw_all(folder, Draws(0), DRAWING, entries(), METHODS) == 0


def test_a_picture_without_its_record_is_drawn_again(folder: Folder) -> None:
    draw_all(folder, Draws(), DRAWING, entries(), METHODS)
    folder.record_file("one", "3").unlink()
    folder.picture("two", "0").unlink()
    again = Draws()
    assert draw_all(folder, again, DRAWING, entries(), METHODS) == 2
    assert [order.seed for order in again.orders] == [100, 103]


def test_a_try_of_few_entries_counts_for_all_of_them(folder: Folder) -> None:
    draw_all(folder, Draws(), DRAWING, entries()[2:3], METHODS)
    assert draw_all(folder, Draws(), DRAWING, entries(), METHODS) == 8


@pytest.mark.parametrize(
    ("change", "told"),
    [({"steps": 5}, "steps"), ({"seed": 1}, "seed"), ({"checkpoint": "beta"}, "checkpoint"), ({"size": 128}, "width")],
)
def test_pictures_that_were_drawn_otherwise_are_not_mixed_with_these(
    folder: Folder, change: dict[str, Any], told: str
) -> None:
    draw_all(folder, Draws(), DRAWING, entries(), METHODS)
    other = Drawing(**{**DRAWING.__dict__, **change})
    before = contents(folder)
    with pytest.raises(AmdmError, match=rf'0\.png" was drawn with other settings \({told}.*choose another --out'):
        draw_all(folder, Draws(0), other, entries(), METHODS)
    with pytest.raises(AmdmError, match=r"other settings \(settings\)"):
        draw_all(folder, Draws(0), DRAWING, entries(), [method("one", "other.pth")])
    assert contents(folder) == before


def test_a_new_picture_has_nothing_judged_of_an_old_one(folder: Folder) -> None:
    draw_all(folder, Draws(), DRAWING, entries(), METHODS)
    judge.judge_all(folder, entries(), METHODS, Sees(1), WholeBox())
    folder.record_file("one", "3").unlink()
    draw_all(folder, Draws(), DRAWING, entries(), METHODS)
    assert judge.verdicts_of(folder, "one", entries()[3]) is None
    assert judge.verdicts_of(folder, "two", entries()[3]) is not None


# --- judging ---


class Sees:
    """Finds everything in its box in the pictures whose red is brighter than a bar."""

    def __init__(self, bar: int, name: str = "sees") -> None:
        self.bar, self.name, self.asked = bar, name, 0

    def __call__(self, picture: Image.Image, phrase: str) -> Detections:
        self.asked += 1
        found = BOXES if picture.getpixel((0, 0))[0] >= self.bar else []
        return Detections(np.array(found, float).reshape(-1, 4), np.ones(len(found)))


def record(folder: Folder, name: str, entry: Entry, tone: int, seconds: float = 2.0, fresh: bool = False) -> None:
    """Keep a picture of one red, all of whose things are right where the judge finds them."""
    order = {"checkpoint": "alpha", "steps": 4, "cfg_scale": 7.5, "width": SIZE, "height": SIZE}
    picture = Image.new("RGB", (SIZE, SIZE), (tone, 0, 0))
    folder.keep(name, entry.key, Record(order, seconds, fresh, "a test"), Drawn(picture, seconds))


def test_what_is_judged_is_not_judged_again_but_by_another_judge(folder: Folder) -> None:
    for entry in entries():
        record(folder, "one", entry, 200)
    ordered, one = entries(), [METHODS[0]]
    first = Sees(100)
    assert judge.judge_all(folder, ordered[:2], one, first, WholeBox()) == 2
    assert judge.judge_all(folder, ordered, one, first, WholeBox()) == 3
    # each entry has cats and dogs
    assert first.asked == 10
    assert judge.judge_all(folder, ordered, one, first, WholeBox()) == 0
    assert judge.judge_all(folder, ordered, one, Sees(100, "another"), WholeBox()) == 5
    assert judge.judge_all(folder, ordered, METHODS, Sees(100, "another"), WholeBox()) == 0


def test_the_table_has_levels_and_the_average_over_instances(folder: Folder) -> None:
    """All things are right in half of L2's pictures and in all of L6's; no other level is there."""
    ordered = entries([2] * 4 + [6] * 2)
    for entry in ordered:
        bright = entry.level == 6 or entry.number % 2
        record(
            folder, "one", entry, 200 if bright else 50, seconds=3.0 if entry.number else 99.0, fresh=not entry.number
        )
    judge.judge_all(folder, ordered, [METHODS[0]], Sees(100), WholeBox())
    text, figures = report.report(folder, ordered, METHODS)
    told = figures["one"]
    for quantity in ("success", "mIoU"):
        values = {level: share["value"] for level, share in told[quantity].items()}
        assert values == {"2": 0.5, "6": 1.0, "all": pytest.approx(16 / 20)}
        assert all(share["low"] <= share["value"] <= share["high"] for share in told[quantity].values())
    assert (told["pictures"], told["seconds"]) == (6, 3.0) and set(figures) == {"one"}
    [row] = re.findall(r"^\| One \| (50\.0 .*) \| 6 \|$", text, re.M)
    assert [cell.split(" ")[0] for cell in row.split(" | ")] == ["50.0", "", "", "", "100.0", "80.0"]
    assert "| paper: InteractDiffusion(+MIGC) | 57.18 | 52.91 | 52.65 | 49.62 | 47.39 | 50.81 |" in text
    assert "| paper: InteractDiffusion(+MIGC) | 50.73 | 45.54 | 44.66 | 43.54 | 43.23 | 44.69 | 19.45 |" in text
    assert "6 pictures of 12" in text and "judged by sees with boxes" in text and "--segmenter" in text
    assert "Two" not in text


def test_methods_are_compared_with_interactdiffusion_alone_on_the_same_entries(folder: Folder) -> None:
    ordered = entries([2] * 20)
    both = [method("interact"), method("paper")]
    for entry in ordered:
        record(folder, "interact", entry, 200 if entry.number % 2 else 50)
        if entry.number < 10:
            record(folder, "paper", entry, 200)
    judge.judge_all(folder, ordered, both, Sees(100), WholeBox())
    text, _ = report.report(folder, ordered, both)
    [told] = re.findall(r"Paper has ([+-][\d.]+) points \(([+-][\d.]+) to ([+-][\d.]+)\).*on the same 10 entries", text)
    value, low, high = map(float, told)
    assert value == 50 and 10 < low < 50 < high < 90


def test_the_overlaps_interval_takes_a_pictures_instances_together() -> None:
    """The same overlaps, spread over all pictures or the same within each: the second says less."""
    of = np.full(50, 6)
    alike = report.mean_overlap(np.where(np.arange(50) % 2, 6 * 0.9, 0.0), of)
    mixed = report.mean_overlap(np.full(50, 6 * 0.45) + np.where(np.arange(50) % 2, 0.1, -0.1), of)
    assert alike.value == pytest.approx(0.45) == mixed.value
    assert alike.high - alike.low > 10 * (mixed.high - mixed.low) > 0
    none = report.mean_overlap(np.zeros(50), of)
    assert (none.value, none.low) == (0.0, 0.0) and 0 < none.high < 0.1
    one = report.mean_overlap(np.array([1.5]), np.array([2]))
    assert one.low < 0.5 and one.high > 0.9


def test_the_overlaps_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    of = rng.integers(2, 7, 150)
    hits = 0
    for _ in range(400):
        rate = rng.beta(1, 1, len(of))
        overlap = np.array([(rng.uniform(0.5, 1, n) * (rng.random(n) < p)).sum() for n, p in zip(of, rate)])
        told = report.mean_overlap(overlap, of)
        hits += told.low <= 0.75 * 0.5 <= told.high
    assert 0.92 <= hits / 400 <= 0.98


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
    monkeypatch.setattr(command, "drawer_of", lambda chosen: draws if chosen.url else None)
    return draws


def run(out: Path, *arguments: str) -> int:
    return command.main(["--out", str(out), *arguments])


def test_the_command_builds_draws_judges_and_reports(
    out: Path, coco: Path, draws: Draws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lib_amdm.evaluate.coco_mig.detector.GroundingDino", lambda folder, device: Sees(0))
    drawing = ("--entries", "10", "--url", "x", "--checkpoint", "alpha", "--methods", "interact,paper", "--size", "64")
    assert run(out, "--annotations", str(coco), *drawing) == 0
    assert len(draws.orders) == 20 and "Nothing was judged" in capsys.readouterr().out
    # the list's own entry: a WebUI draws with another checkpoint where it does not know the name
    assert {order.checkpoint for order in draws.orders} == {"alpha.safetensors [0123456789]"}
    assert draws.orders[0].steps == 50 and "lowres" in draws.orders[0].negative_prompt
    # what was built and drawn is found in the folder
    assert run(out, "--entries", "10", "--detector", "dino") == 0
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
        ((*BUILT, "--url", "x", "--checkpoint", "lost"), '"lost" is not in the list; choose one with --checkpoint'),
        ((*BUILT, "--url", "x", "--migc", "mine"), 'no adapter "mine" is in the list .* or name it with --migc'),
        ((*BUILT, "--url", "x", "--methods", "mine"), '"mine" is not a method; choose among'),
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
