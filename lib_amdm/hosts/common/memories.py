"""The state of other extensions' functions, kept apart for each model.

The functions are set on the main model, and may take part in a slot's evaluations too. Their state is momentum, a scale
that fades with each call, or features for later steps. The outputs of two models must not enter one such history.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor

from .reach import Reach, attributes, bare, codes_of, content, is_data, slots, stored

LARGEST = 2**28
"""Bytes of tensors that are copied for one model, the smallest first; of others only the reference is kept."""

Place = tuple[int, str]
"""An object's id, and a name in it; "" for the content of a closure's variable."""
Restore = Callable[[set[Place]], None]
"""Restores an object's former content, except at the places that keep their present one."""


class Memory:
    """The whole state of the functions at one moment."""

    def __init__(self, functions: Iterable[Any]) -> None:
        reach = Reach(functions)
        # references keep the objects' ids from being reused
        self._objects = reach.objects
        self._restores = [_module(*each) for each in reach.named.values()]
        self._restores += [_class(each) for each in reach.objects.values() if isinstance(each, type)]
        self._restores += [_holder(each) for each in reach.holders.values() if type(each) is not Tensor]
        tensors = [each for each in reach.holders.values() if type(each) is Tensor]
        self._restores += [_tensor(each) for each in _whole(tensors)]

    def restore(self, shared: set[Place]) -> None:
        """Restore this state. shared: the places that are left as they are."""
        for restore in self._restores:
            restore(shared)


class Memories:
    """A state of the functions for each model."""

    def __init__(self, functions: Callable[[], Sequence[Any]], callbacks: Callable[[], Iterable[Any]]) -> None:
        """Begin each model's state as a copy of the main one's.

        functions: returns those on the main model. callbacks: functions that the WebUI calls around its own
        evaluations; what they set, such as a flag for the steps of an effect, applies to all models.
        """
        self._functions, self._callbacks = functions, callbacks
        self._first = Memory(functions())
        self._own: dict[int, Memory] = {}

    @contextmanager
    def of(self, model: int) -> Iterator[None]:
        """Give the functions the state for the model of this number, instead of the main one's, during the context."""
        functions = self._functions()
        if not functions:
            yield
            return
        main = Memory(functions)
        self._own.get(model, self._first).restore(set_by(self._callbacks()))
        try:
            yield
        finally:
            self._own[model] = Memory(self._functions())
            main.restore(set())


def set_by(callbacks: Iterable[Any]) -> set[Place]:
    """Return the places to which functions themselves assign new values."""
    places: set[Place] = set()
    for callback in callbacks:
        function = bare(callback)
        if not isinstance(function, FunctionType):
            continue
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or ()))
        names = stored(codes_of(function.__code__))
        if not names:
            continue
        reach = Reach([callback])
        places |= {(id(cells[name]), "") for name in names & cells.keys()}
        places |= {(each, name) for each in (*reach.objects, *reach.named) for name in names - cells.keys()}
    return places


def _module(module: dict[str, Any], names: set[str]) -> Restore:
    kept = {name: module[name] for name in names & module.keys() if is_data(module[name])}

    def restore(shared: set[Place]) -> None:
        for name in names:
            if (id(module), name) in shared:
                continue
            if name in kept:
                module[name] = kept[name]
            elif is_data(module.get(name, module)) and name in module:
                del module[name]

    return restore


def _class(kind: type) -> Restore:
    def data() -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if is_data(value) and not name.startswith("__")}

    kept = data()

    def restore(shared: set[Place]) -> None:
        now = data()
        for name in now.keys() | kept.keys():
            if (id(kind), name) in shared:
                continue
            if name not in kept:
                delattr(kind, name)
            elif name not in now or now[name] is not kept[name]:
                setattr(kind, name, kept[name])

    return restore


def _instance(each: Any) -> Restore:
    kept, apart = attributes(each), slots(type(each))

    def restore(shared: set[Place]) -> None:
        now = attributes(each)
        for name in now.keys() | kept.keys():
            if (id(each), name) in shared:
                continue
            if name in apart:
                setattr(each, name, kept[name]) if name in kept else delattr(each, name)
            elif name in kept:
                vars(each)[name] = kept[name]
            else:
                del vars(each)[name]

    return restore


def _cell(cell: CellType) -> Restore:
    kept = content(cell)

    def restore(shared: set[Place]) -> None:
        if (id(cell), "") in shared:
            return
        if kept:
            cell.cell_contents = kept[0]
        elif content(cell):
            del cell.cell_contents

    return restore


def _holder(each: Any) -> Restore:
    if isinstance(each, CellType):
        return _cell(each)
    if isinstance(each, dict):
        entries = dict(each)

        def refill(shared: set[Place]) -> None:
            # in the same order
            if list(each) != list(entries):
                each.clear()
            each.update(entries)

        return refill
    if isinstance(each, (list, deque, set)):
        members = list(each)

        def again(shared: set[Place]) -> None:
            each.clear()
            each.update(members) if isinstance(each, set) else each.extend(members)

        return again
    if isinstance(each, torch.Generator):
        state = each.get_state()
        return lambda shared: _set_state(each, state)
    if isinstance(each, random.Random):
        numbers = each.getstate()
        return lambda shared: each.setstate(numbers)
    return _instance(each)


def _set_state(generator: torch.Generator, state: Tensor) -> None:
    generator.set_state(state)


def _tensor(tensor: Tensor) -> Restore:
    with torch.inference_mode():
        numbers = tensor.detach().clone()

    def restore(shared: set[Place]) -> None:
        if tensor.shape == numbers.shape:
            with torch.inference_mode():
                tensor.copy_(numbers)

    return restore


def _whole(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the tensors that fit into the limit for one model, and do not overlap with themselves."""
    size = 0
    for tensor in sorted(tensors, key=Tensor.numel):
        size += tensor.numel() * tensor.element_size()
        spread = tensor.layout is torch.strided and all(
            stride or length < 2 for length, stride in zip(tensor.shape, tensor.stride())
        )
        if size <= LARGEST and spread and not tensor.is_meta:
            yield tensor
