"""The pool keeps what can be used again and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_amdm.comodels.cache import Loaded, Pool, Recent, share_equal_tensors
from lib_amdm.files.state import FileState


@pytest.fixture
def files(tmp_path: Path) -> Any:
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path in paths:
        path.write_bytes(b"weights")
    return [str(path) for path in paths]


class Loader:
    """Makes co-models and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Loaded:
        self.times += 1
        return Loaded(f"model {self.times}", torch.nn.Linear(10 * self.times, 10, bias=False))


@pytest.mark.parametrize("what", ["time", "size"])
def test_a_file_is_read_once_until_it_changes_and_the_old_model_is_dropped(files: Any, what: Any) -> None:
    pool, load = Pool(), Loader()
    first = pool.get(files[0], "half", load)
    assert pool.get(files[0], "half", load) is first and load.times == 1
    if what == "size":
        Path(files[0]).write_bytes(b"more weights")
    else:
        os.utime(files[0], (1, 1))
    assert pool.get(files[0], "half", load) is not first
    assert len(pool.listing()) == 1
    assert pool.get(files[0], "full", load) is not pool.get(files[0], "half", load), "another dtype is another model"


def test_what_depends_on_a_loaded_file_that_has_gone_is_made_anew(files: Any) -> None:
    path, texts = files[0], Recent()
    made: list[int] = []

    def count() -> int:
        made.append(1)
        return len(made)

    def encoded() -> int:
        return texts.get(FileState.of_loaded(path), count)

    assert [encoded(), encoded()] == [1, 1]
    Path(path).unlink()
    assert [encoded(), encoded()] == [2, 3]


def test_least_recently_used_goes_first(files: Any) -> None:
    pool, load = Pool(), Loader()
    kept = [pool.get(path, "half", load) for path in files]
    pool.get(files[0], "half", load)
    pool.trim(2)
    assert [entry.name for entry in pool.listing()] == [kept[2].name, kept[0].name]
    pool.trim(0)
    assert pool.listing() == []


def test_a_failed_load_keeps_nothing_and_the_next_one_may_work(files: Any) -> None:
    pool = Pool()

    def fails() -> Loaded:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        pool.get(files[0], "half", fails)
    assert pool.listing() == []
    assert pool.get(files[0], "half", Loader()).name == "model 1"


def test_unload_tells_how_many_and_how_much(files: Any) -> None:
    pool, load = Pool(), Loader()
    for path in files[:2]:
        pool.get(path, "half", load)
    assert sum(entry.size for entry in pool.unload()) == 4 * (10 * 10 + 20 * 10)
    assert pool.unload() == []


def alike(make: Any) -> Any:
    """Three models with the same weights."""
    models = [make() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    return models


@pytest.mark.parametrize("addresses", [True, False])
def test_equal_tensors_are_held_once_and_counted_once(
    files: Any, addresses: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device without addresses too: DirectML's tensors have no storage."""
    twins = alike(lambda: torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)))
    with torch.no_grad():
        twins[1][1].weight += 1
    pool, models = Pool(), iter(twins)

    def refuses(tensor: Any) -> None:
        raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")

    if not addresses:
        monkeypatch.setattr(torch.Tensor, "data_ptr", refuses)
    for path in files:
        pool.get(path, "half", lambda: Loaded("twin", next(models)))
    assert [entry.size for entry in pool.listing()] == [4 * 2 * 72, 4 * 64, 0]
    pool.trim(2)
    assert [entry.size for entry in pool.listing()] == [4 * 2 * 72, 4 * 64], "what is left holds what it shared"
    monkeypatch.undo()
    assert len({model[0].weight.data_ptr() for model in twins}) == 1
    assert twins[0][1].weight.data_ptr() != twins[1][1].weight.data_ptr()


def test_what_three_hold_is_saved_twice_and_nothing_of_another_dtype_or_shape() -> None:
    models = alike(lambda: torch.nn.Linear(4, 4))
    assert [share_equal_tensors(model, models[:n]) for n, model in enumerate(models)] == [0, 80, 80]
    plain, half = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4).half()
    for parameter in (*plain.parameters(), *half.parameters()):
        torch.nn.init.ones_(parameter)
    assert share_equal_tensors(half, [plain, torch.nn.Linear(5, 4)]) == 0


def test_texts_are_encoded_once_and_the_least_recently_used_forgotten() -> None:
    texts = Recent(most=2)
    encoded: list[str] = []

    def encode(text: str) -> Callable[[], str]:
        def encoding() -> str:
            encoded.append(text)
            return text.upper()

        return encoding

    assert [texts.get(text, encode(text)) for text in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert encoded == ["a", "b", "c", "b"]
