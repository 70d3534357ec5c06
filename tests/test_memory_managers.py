"""Memory that is given back to the memory managers of Forge's kin, on a small one with their rules."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from torch import nn

from lib_amdm.hosts.common.memory_managers import freeing, give_way


class Patcher:
    """A model of so many bytes, some of which are on the GPU."""

    offload_device = "cpu"

    def __init__(self, size: int, here: int = 0, load_device: str = "cuda") -> None:
        self.size, self.here, self.load_device, self.moves = size, here, load_device, 0
        self.model = nn.Linear(1, 1)
        self.model.owner = [self]  # type: ignore[assignment]  # a model that refers to itself

    def partially_unload(self, device: Any, size: int) -> int:
        assert device == self.offload_device
        freed = min(size, self.here)
        self.here, self.moves = self.here - freed, self.moves + 1
        return freed


class Entry:
    """A loaded model, held as Forge holds it."""

    def __init__(self, model: Patcher) -> None:
        self.model = model

    def model_offloaded_memory(self) -> int:
        return self.model.size - self.model.here

    def model_use_more_vram(self, size: int) -> None:
        self.model.here, self.model.moves = self.model.here + size, self.model.moves + 1


def passed(main: Patcher, *others: Patcher, loaded: tuple[Patcher, ...]) -> None:
    """Give way to a main model; a test's patchers pass for a host's."""
    manager: Any = Manager(*loaded)
    models: list[Any] = [main, *others]
    give_way(manager, models[0], models[1:])


class Manager:
    """Keeps what it has loaded until nothing else refers to it."""

    def __init__(self, *patchers: Patcher) -> None:
        self.current_loaded_models: list[Any] = [Entry(each) for each in patchers]
        self.needed: list[Any] = []

    def cleanup_models(self) -> None:
        self.current_loaded_models = [each for each in self.current_loaded_models if each.model in self.needed]

    def soft_empty_cache(self) -> None:
        return


@pytest.mark.parametrize(
    ("here", "after"), [((0, 33), (33, 0)), ((90, 33), (98, 25)), ((98, 98), (98, 98)), ((0, 0), (0, 0))]
)
def test_the_main_model_has_the_room_first(here: tuple[int, int], after: tuple[int, int]) -> None:
    main, other = Patcher(98, here[0]), Patcher(98, here[1])
    passed(main, other, loaded=(other, main))
    assert (main.here, other.here) == after
    assert sum(here) == sum(after)
    # what is where it should be does not move
    assert (main.moves, other.moves) == ((0, 0) if here == after and here[0] else (here != after, here != (98, 98)))


def test_a_main_model_that_is_not_loaded_takes_nothing() -> None:
    other = Patcher(98, 98)
    passed(Patcher(98), other, loaded=(other,))
    assert other.here == 98


def test_a_model_on_another_device_has_no_room_to_give() -> None:
    main, elsewhere, other = Patcher(98), Patcher(98, 98, load_device="cpu"), Patcher(98, 33)
    passed(main, elsewhere, other, loaded=(elsewhere, other, main))
    assert (main.here, elsewhere.here, elsewhere.moves, other.here) == (33, 98, 0, 0)


def test_what_nothing_refers_to_is_gone_at_once() -> None:
    manager = Manager(Patcher(1))
    gone = weakref.ref(manager.current_loaded_models[0].model.model)
    gc.disable()
    try:
        freeing(manager)()  # type: ignore[arg-type]
        assert gone() is None and manager.current_loaded_models == []
    finally:
        gc.enable()
