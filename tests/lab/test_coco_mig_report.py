"""COCO-MIG's verdicts kept beside the pictures, and the table that comes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_stand_ins import METHODS, Sees, entries, method, record

from amdm_lab import statistics
from amdm_lab.coco_mig import judge, report
from amdm_lab.coco_mig.segmenter import WholeBox
from amdm_lab.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "out")


def test_what_is_judged_is_not_judged_again_but_by_another_judge(store: Store) -> None:
    for entry in entries():
        record(store, "one", entry, 200)
    ordered, one = entries(), [METHODS[0]]
    first = Sees(100)
    judge.judge_all(store, ordered[:2], one, first, WholeBox())
    # each entry has cats and dogs
    assert first.asked == 4
    judgements = judge.judge_all(store, ordered, one, first, WholeBox())
    assert first.asked == 10 and len(judgements) == 5
    assert judge.judge_all(store, ordered, one, first, WholeBox()) == judgements and first.asked == 10
    another = Sees(100, "another")
    judge.judge_all(store, ordered, one, another, WholeBox())
    assert another.asked == 10
    # the other method has no pictures
    assert len(judge.judge_all(store, ordered, METHODS, another, WholeBox())) == 5 and another.asked == 10


def test_the_table_has_levels_and_the_average_over_instances(store: Store) -> None:
    """All things are right in half of L2's pictures and in all of L6's; no other level is there."""
    ordered = entries([2] * 4 + [6] * 2)
    for entry in ordered:
        bright = entry.level == 6 or entry.number % 2
        record(
            store, "one", entry, 200 if bright else 50, seconds=3.0 if entry.number else 99.0, fresh=not entry.number
        )
    judge.judge_all(store, ordered, [METHODS[0]], Sees(100), WholeBox())
    text, figures = report.report(store, ordered, METHODS)
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


def test_methods_are_compared_with_interactdiffusion_alone_on_the_same_entries(store: Store) -> None:
    ordered = entries([2] * 20)
    both = [method("interact"), method("paper")]
    for entry in ordered:
        record(store, "interact", entry, 200 if entry.number % 2 else 50)
        if entry.number < 10:
            record(store, "paper", entry, 200)
    judge.judge_all(store, ordered, both, Sees(100), WholeBox())
    text, _ = report.report(store, ordered, both)
    [told] = re.findall(r"Paper: ([+-][\d.]+) points .*\(([+-][\d.]+) to ([+-][\d.]+)\).*on the same 10 entries", text)
    value, low, high = map(float, told)
    assert value == 50 and 10 < low < 50 < high < 90


def test_the_overlaps_interval_takes_a_pictures_instances_together() -> None:
    """The same overlaps, spread over all pictures or the same within each: the second says less."""
    of = np.full(50, 6)
    alike = statistics.mean(np.where(np.arange(50) % 2, 6 * 0.9, 0.0), of)
    mixed = statistics.mean(np.full(50, 6 * 0.45) + np.where(np.arange(50) % 2, 0.1, -0.1), of)
    assert alike.value == pytest.approx(0.45) == mixed.value
    assert alike.high - alike.low > 10 * (mixed.high - mixed.low) > 0
    none = statistics.mean(np.zeros(50), of)
    assert (none.value, none.low) == (0.0, 0.0) and 0 < none.high < 0.1
    for single in (0.1, 1.5):
        one = statistics.mean(np.array([single]), np.array([3]))
        assert one.high - one.low > 0.6


def test_a_difference_is_of_the_same_pictures() -> None:
    """Two methods that fare alike picture by picture are told apart by less than two that do not."""
    of = np.full(100, 4)
    one: Any = np.arange(100) % 5
    same = statistics.difference(np.minimum(one + (np.arange(100) % 4 == 0), 4), one, of)
    apart = statistics.difference(np.minimum(one + (np.arange(100) % 4 == 0), 4), one[::-1], of)
    assert same[0] == pytest.approx(apart[0]) and same[0] > 0
    assert same[1] > 0 > apart[1] and same[2] - same[1] < (apart[2] - apart[1]) / 2
    none = statistics.difference(np.zeros(5), np.zeros(5), np.full(5, 4))
    assert none[0] == 0 and none[1] == pytest.approx(-none[2]) and none[2] > 0.3
    # the interval of the one is that of a share where the other is 0 for sure
    alone = statistics.difference(one, np.zeros(100), of)
    told = statistics.mean(one.astype(float), of)
    assert alone == pytest.approx((told.value, told.low, told.high))


def test_the_overlaps_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    of = rng.integers(2, 7, 150)
    hits = 0
    for _ in range(400):
        rate = rng.beta(1, 1, len(of))
        overlap = np.array([(rng.uniform(0.5, 1, n) * (rng.random(n) < p)).sum() for n, p in zip(of, rate)])
        told = statistics.mean(overlap, of)
        hits += told.low <= 0.75 * 0.5 <= told.high
    assert 0.92 <= hits / 400 <= 0.98
