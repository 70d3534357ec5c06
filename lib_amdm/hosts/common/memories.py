"""The state of other extensions' functions, kept apart for each model.

The functions are set on the main model, and may take part in a slot's evaluations too. Their state is momentum, a scale
that fades with each call, or features for later steps. The outputs of two models must not enter one such history.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CellType, CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor

from .reach import Reach, attributes, bare, codes_of, content, is_data, is_strangers, slots, stored

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
        self._restores = [_module(*module) for module in reach.named.values()]
        self._restores += [_class(kind) for kind in reach.objects.values() if isinstance(kind, type)]
        self._restores += [_holder(holder) for holder in reach.holders.values() if type(holder) is not Tensor]
        tensors = [holder for holder in reach.holders.values() if type(holder) is Tensor]
        self._restores += [_tensor(tensor) for tensor in _whole(tensors)]

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
        codes = [code for called in called_by(function, type(getattr(callback, "__self__", None))) for code in called]
        names = stored(codes)
        if not names:
            continue
        reach = Reach([callback])
        places |= {(id(cells[name]), "") for name in names & cells.keys()}
        places |= {(place, name) for place in (*reach.objects, *reach.named) for name in names - cells.keys()}
    return places


def called_by(function: FunctionType, owner: type) -> Iterator[list[CodeType]]:
    """Yield the code of a function, and of those that it calls by name in its module or on objects of its `owner`."""
    waiting: list[Any] = [function]
    seen: set[FunctionType] = set()
    while waiting:
        called = waiting.pop()
        if not isinstance(called, FunctionType) or called in seen:
            continue
        if called is not function and not is_strangers(called.__globals__.get("__name__")):
            continue
        seen.add(called)
        codes = [*codes_of(called.__code__)]
        yield codes
        for name in {name for code in codes for name in code.co_names}:
            waiting += [called.__globals__.get(name), getattr(owner, name, None)]


def _module(module: dict[str, Any], names: set[str]) -> Restore:
    before = {name: module[name] for name in names & module.keys() if is_data(module[name])}

    def restore(shared: set[Place]) -> None:
        for name in names:
            if (id(module), name) in shared:
                continue
            if name in before:
                module[name] = before[name]
            elif is_data(module.get(name, module)) and name in module:
                del module[name]

    return restore


def _class(kind: type) -> Restore:
    def data() -> dict[str, Any]:
        return {name: value for name, value in vars(kind).items() if is_data(value) and not name.startswith("__")}

    before = data()

    def restore(shared: set[Place]) -> None:
        now = data()
        for name in now.keys() | before.keys():
            if (id(kind), name) in shared:
                continue
            if name not in before:
                delattr(kind, name)
            elif name not in now or now[name] is not before[name]:
                setattr(kind, name, before[name])

    return restore


def _instance(instance: Any) -> Restore:
    before, apart = attributes(instance), slots(type(instance))

    def restore(shared: set[Place]) -> None:
        now = attributes(instance)
        for name in now.keys() | before.keys():
            if (id(instance), name) in shared:
                continue
            if name in apart:
                setattr(instance, name, before[name]) if name in before else delattr(instance, name)
            elif name in before:
                vars(instance)[name] = before[name]
            else:
                del vars(instance)[name]

    return restore


def _cell(cell: CellType) -> Restore:
    before = content(cell)

    def restore(shared: set[Place]) -> None:
        if (id(cell), "") in shared:
            return
        if before:
            cell.cell_contents = before[0]
        elif content(cell):
            del cell.cell_contents

    return restore


def _holder(holder: Any) -> Restore:
    if isinstance(holder, CellType):
        return _cell(holder)
    if isinstance(holder, dict):
        entries = dict(holder)

        def refill(shared: set[Place]) -> None:
            # in the same order
            if list(holder) != list(entries):
                holder.clear()
            holder.update(entries)

        return refill
    if isinstance(holder, (list, deque, set)):
        members = list(holder)

        def again(shared: set[Place]) -> None:
            holder.clear()
            holder.update(members) if isinstance(holder, set) else holder.extend(members)

        return again
    if isinstance(holder, torch.Generator):
        state = holder.get_state()
        return lambda shared: _set_state(holder, state)
    if isinstance(holder, random.Random):
        numbers = holder.getstate()
        return lambda shared: holder.setstate(numbers)
    return _instance(holder)


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
