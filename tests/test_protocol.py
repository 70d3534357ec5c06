"""What stands for a host is one: the tests' fake, and the host without a WebUI as far as the panel needs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from fake_host import FakeHost

from lib_amdm.hosts import protocol


def functions(of: type) -> dict[str, Callable]:
    return {name: each for name, each in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")}


def parameters(function: Callable) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("kind", [protocol.Lists, protocol.Callbacks], ids=lambda kind: kind.__name__)
def test_it_has_the_protocols_functions_with_their_parameters(kind: type) -> None:
    wanted = functions(kind)
    theirs = {name: parameters(each) for name, each in functions(FakeHost).items() if name in wanted}
    assert theirs == {name: parameters(each) for name, each in wanted.items()}


def test_what_is_in_memory_has_its_types() -> None:
    host = FakeHost()
    for entry in (*host.loaded(), *host.unload()):
        assert isinstance(entry, protocol.InMemory)
