"""The pool keeps what can be used again and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lib_amdm.comodels.cache import Loaded, Pool, Recent, share_equal_tensors
from lib_amdm.files.state import FileState


@pytest.fixture
def files(tmp_path):
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


def test_a_file_is_read_once_while_it_stays_the_same(files):
    pool, load = Pool(), Loader()
    assert pool.get(files[0], "half", load) is pool.get(files[0], "half", load)
    assert load.times == 1


@pytest.mark.parametrize("what", ["time", "size"])
def test_a_changed_file_is_read_again_and_the_old_model_is_dropped(files, what):
    pool, load = Pool(), Loader()
    first = pool.get(files[0], "half", load)
    if what == "size":
        Path(files[0]).write_bytes(b"more weights")
    else:
        os.utime(files[0], (1, 1))
    assert pool.get(files[0], "half", load) is not first
    assert len(pool.listing()) == 1


def test_what_depends_on_a_loaded_file_that_has_gone_is_made_anew(files):
    path, texts, made = files[0], Recent(), []

    def encoded():
        return texts.get(FileState.of_loaded(path), lambda: made.append(1) or len(made))

    assert [encoded(), encoded()] == [1, 1]
    Path(path).unlink()
    assert [encoded(), encoded()] == [2, 3]


def test_another_dtype_is_another_model(files):
    pool, load = Pool(), Loader()
    assert pool.get(files[0], "half", load) is not pool.get(files[0], "full", load)


def test_least_recently_used_goes_first(files):
    pool, load = Pool(), Loader()
    kept = [pool.get(path, "half", load) for path in files]
    pool.get(files[0], "half", load)
    pool.trim(2)
    assert [entry.name for entry in pool.listing()] == [kept[2].name, kept[0].name]
    pool.trim(0)
    assert pool.listing() == []


def test_a_failed_load_keeps_nothing_and_the_next_one_may_work(files):
    pool = Pool()

    def fails() -> Loaded:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        pool.get(files[0], "half", fails)
    assert pool.listing() == []
    assert pool.get(files[0], "half", Loader()).name == "model 1"


def test_unload_tells_how_many_and_how_much(files):
    pool, load = Pool(), Loader()
    for path in files[:2]:
        pool.get(path, "half", load)
    assert sum(entry.size for entry in pool.unload()) == 4 * (10 * 10 + 20 * 10)
    assert pool.unload() == []


def test_equal_tensors_are_held_once_and_counted_once(files):
    pool = Pool()
    alike = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)) for _ in range(2)]
    alike[1].load_state_dict(alike[0].state_dict())
    with torch.no_grad():
        alike[1][1].weight += 1
    models = iter(alike)
    for path in files[:2]:
        pool.get(path, "half", lambda: Loaded("twin", next(models)))
    assert alike[0][0].weight.data_ptr() == alike[1][0].weight.data_ptr()
    assert alike[0][1].weight.data_ptr() != alike[1][1].weight.data_ptr()
    sizes = [entry.size for entry in pool.listing()]
    assert sizes == [4 * 2 * 72, 4 * 64]


def test_on_a_device_without_addresses_equal_tensors_are_held_once_and_counted_once(files, monkeypatch):
    """As DirectML's tensors do, which have no storage."""
    alike = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)) for _ in range(3)]
    for model in alike[1:]:
        model.load_state_dict(alike[0].state_dict())
    with torch.no_grad():
        alike[1][1].weight += 1
    pool, models, data_ptr = Pool(), iter(alike), torch.Tensor.data_ptr

    def refuses(tensor):
        raise RuntimeError("Cannot access data pointer of Tensor that doesn't have storage")

    monkeypatch.setattr(torch.Tensor, "data_ptr", refuses)
    for path in files:
        pool.get(path, "half", lambda: Loaded("twin", next(models)))
    assert [entry.size for entry in pool.listing()] == [4 * 2 * 72, 4 * 64, 0]
    pool.trim(2)
    assert [entry.size for entry in pool.listing()] == [4 * 2 * 72, 4 * 64], "what is left holds what it shared"
    monkeypatch.undo()
    assert [data_ptr(model[0].weight) for model in alike] == [data_ptr(alike[0][0].weight)] * 3


def test_what_three_hold_is_saved_twice():
    models = [torch.nn.Linear(4, 4) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    assert [share_equal_tensors(model, models[:n]) for n, model in enumerate(models)] == [0, 80, 80]


def test_tensors_of_another_dtype_or_shape_are_not_shared():
    a, b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4).half()
    with torch.no_grad():
        b.weight.copy_(a.weight)
    assert share_equal_tensors(b, [a, torch.nn.Linear(5, 4)]) == 0


def test_texts_are_encoded_once_and_the_least_recently_used_forgotten():
    texts, encoded = Recent(most=2), []

    def encode(text):
        return lambda: encoded.append(text) or text.upper()

    assert [texts.get(text, encode(text)) for text in ("a", "b", "a", "c", "a", "b")] == ["A", "B", "A", "C", "A", "B"]
    assert encoded == ["a", "b", "c", "b"]
