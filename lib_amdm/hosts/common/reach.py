"""The reach of other extensions' functions: the objects they close over, are bound to, and name in their modules.

It ends at the objects of the WebUI and of libraries.
"""

from __future__ import annotations

import dis
import enum
import functools
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

import torch
from torch import Tensor, nn

MOST_OBJECTS = 20_000
LONGEST = 10_000
"""The most entries of a container that is searched; a longer one is a table."""
OURS = "lib_amdm"
WEBUIS = (
    *("modules", "modules_forge", "backend", "ldm_patched", "ldm", "sgm", "k_diffusion", "k_diff", "huggingface_guess"),
    *("__main__", OURS),
)
WEBUIS_EXTENSIONS = "modules.processing_scripts"
"""Forge Neo's package of features that are extensions elsewhere."""
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, enum.Enum, BuiltinFunctionType, torch.dtype)
CODE = (FunctionType, BuiltinFunctionType, type, ModuleType, staticmethod, classmethod, property)
DESCRIPTORS = (GetSetDescriptorType, MemberDescriptorType)
CONTAINERS = (dict, list, deque, set)


def package(module: object) -> str:
    return str(module).partition(".")[0]


def is_strangers(module: object) -> bool:
    """Return True for an extension's module, by its name: not the WebUI's, a library's or this project's."""
    top = package(module)
    if str(module).startswith(WEBUIS_EXTENSIONS):
        return True
    if top in WEBUIS or top in sys.stdlib_module_names:
        return False
    loaded = sys.modules.get(top)
    places = [getattr(loaded, "__file__", None) or "", *map(str, getattr(loaded, "__path__", ()))]
    return not any("site-packages" in place or "dist-packages" in place for place in places)


def bare(function: Any) -> Any:
    """Return the function of a bound method or a partial one."""
    while isinstance(function, (MethodType, functools.partial)):
        function = function.__func__ if isinstance(function, MethodType) else function.func
    return function


def modules_of(function: Any) -> Iterator[str]:
    """Yield the names of the modules that really define a function and those that it wraps."""
    while True:
        function = bare(function)
        if isinstance(function, FunctionType):
            yield str(function.__globals__.get("__name__"))
        else:
            yield str(type(function).__module__)
        if not hasattr(function, "__wrapped__"):
            return
        function = function.__wrapped__


def stored(codes: Iterable[CodeType]) -> set[str]:
    """Return the names beyond its own call to which code assigns."""
    return {
        step.argval
        for code in codes
        for step in dis.get_instructions(code)
        if step.opname in ("STORE_ATTR", "STORE_GLOBAL")
        or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars)
    }


def codes_of(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from codes_of(const)


def content(cell: CellType) -> list[Any]:
    """Return the value of a closure's variable in a list, empty before it has one."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def slots(kind: type) -> set[str]:
    """Return the names of a class's attributes that are not in a dictionary."""
    return {
        name
        for base in kind.__mro__
        if is_strangers(base.__module__)
        for name, value in vars(base).items()
        if isinstance(value, MemberDescriptorType)
    }


def is_patcher(value: Any) -> bool:
    return package(type(value).__module__) in WEBUIS and "model_options" in getattr(value, "__dict__", ())


def is_data(value: Any) -> bool:
    """Return False for functions, classes, modules and descriptors."""
    return not isinstance(value, (*CODE, *DESCRIPTORS))


class Reach:
    """The objects within the reach of functions. A class's methods are included if their names are used."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.objects: dict[int, Any] = {}
        self.holders: dict[int, Any] = {}
        """The mutable ones, except modules and classes."""
        self.named: dict[int, tuple[dict[str, Any], set[str]]] = {}
        """Modules, with the names used from them."""
        self.codes: list[CodeType] = []
        self.models: dict[int, Any] = {}
        """Models of the WebUI's own, their patchers among them."""
        self._names: set[str] = set()
        self._unused: dict[str, list[FunctionType]] = {}
        self._waiting: deque[Any] = deque(roots)
        while self._waiting and len(self.objects) < MOST_OBJECTS:
            value = self._waiting.popleft()
            if id(value) not in self.objects and not isinstance(value, PLAIN):
                self.objects[id(value)] = value
                self._look_into(value)

    @property
    def remembers(self) -> bool:
        """True if anything outlives a call: a mutable object, or a name to which code assigns."""
        kinds = (*CONTAINERS, Tensor, torch.Generator, random.Random)
        return any(isinstance(holder, kinds) for holder in self.holders.values()) or bool(stored(self.codes))

    def _look_into(self, value: Any) -> None:
        kind, waiting = type(value), self._waiting
        if isinstance(value, FunctionType):
            self._look_into_function(value)
        elif isinstance(value, MethodType):
            waiting.extend((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            waiting.extend((value.func, value.args, value.keywords))
        elif isinstance(value, type):
            self._look_into_class(value)
        elif isinstance(value, CellType):
            self.holders[id(value)] = value
            waiting.extend(content(value))
        elif isinstance(value, (tuple, frozenset)):
            waiting.extend(value)
        elif isinstance(value, CONTAINERS):
            if len(value) <= LONGEST:
                self.holders[id(value)] = value
                waiting.extend(value.values() if isinstance(value, dict) else value)
        elif kind is Tensor or isinstance(value, (torch.Generator, random.Random)):
            self.holders[id(value)] = value
        elif is_strangers(kind.__module__) or isinstance(value, SimpleNamespace):
            self.holders[id(value)] = value
            waiting.append(kind)
            waiting.extend(attributes(value).values())
        elif package(kind.__module__) in WEBUIS:
            if isinstance(value, nn.Module) or is_patcher(value) or "forge_objects" in getattr(value, "__dict__", ()):
                self.models[id(value)] = value
        elif kind.__module__ == "functools":
            waiting.append(getattr(value, "__wrapped__", None))

    def _look_into_function(self, function: FunctionType) -> None:
        self._waiting.extend((*(function.__closure__ or ()), function.__defaults__, function.__kwdefaults__))
        if vars(function):
            self._waiting.append(vars(function))
        if not is_strangers(function.__globals__.get("__name__")):
            return
        codes = list(codes_of(function.__code__))
        names = {name for code in codes for name in code.co_names}
        self.codes += codes
        self._look_into_module(function.__globals__, names)
        for name in names - self._names:
            self._waiting.extend(self._unused.pop(name, ()))
        self._names |= names

    def _look_into_module(self, module: dict[str, Any], names: set[str]) -> None:
        used = self.named.setdefault(id(module), (module, set()))[1]
        new = names - used
        used |= new
        for name in new & module.keys():
            value = module[name]
            if not isinstance(value, ModuleType):
                self._waiting.append(value)
            elif is_strangers(value.__name__):
                self._look_into_module(vars(value), names)

    def _look_into_class(self, kind: type) -> None:
        for base in kind.__mro__:
            if not is_strangers(base.__module__):
                continue
            self.objects[id(base)] = base
            for name, value in vars(base).items():
                method = getattr(value, "__func__", None) or getattr(value, "fget", None) or value
                if not isinstance(method, FunctionType):
                    self._waiting.append(value)
                elif name in self._names or name == "__call__":
                    self._waiting.append(method)
                else:
                    self._unused.setdefault(name, []).append(method)


def attributes(value: Any) -> dict[str, Any]:
    """Return an object's content by names."""
    named = {name: getattr(value, name) for name in slots(type(value)) if hasattr(value, name)}
    return {**getattr(value, "__dict__", {}), **named}
