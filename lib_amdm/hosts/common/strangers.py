"""Other extensions' functions on a WebUI's models: on one model, or on all models of a class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import CellType, FunctionType
from typing import Any

from torch import nn

from .reach import OURS, Reach, content, is_patcher, is_strangers, modules_of, package

CALLED = ("forward", "apply_model")
"""The methods of models that extensions replace."""
FORMULAS = ("sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function")
"""A patcher's options for functions that compute guidance."""
WITH_FORMULAS = "disable_cfg1_optimization"
"""The option that gives such functions the negative prompt's prediction also at a guidance scale of 1."""


def functions_in(options: Any) -> Iterator[Any]:
    """Yield the functions in a patcher's options, at any depth."""
    if isinstance(options, Mapping):
        options = options.values()
    elif not isinstance(options, (list, tuple)):
        if callable(options) and not isinstance(options, type) and package(next(modules_of(options))) != OURS:
            yield options
        return
    for option in options:
        yield from functions_in(option)


def functions_on(modules: Iterable[nn.Module]) -> Iterator[Any]:
    """Yield the functions that replace the modules' own, and their hooks."""
    for module in modules:
        attributes = vars(module)
        functions = [attributes.get(name) for name in CALLED]
        functions += [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        yield from (
            function for function in functions if function is not None and any(map(is_strangers, modules_of(function)))
        )


def functions_of_classes(modules: Iterable[nn.Module]) -> Iterator[tuple[str, FunctionType]]:
    """Yield the replaced functions of the modules' classes that have state, with their names."""
    kinds = dict.fromkeys(kind for module in modules for kind in type(module).__mro__)
    for kind in kinds:
        # a WebUI's LoRAs replace those of the library
        if package(kind.__module__) == "torch" or is_strangers(kind.__module__):
            continue
        for name in CALLED:
            function = vars(kind).get(name)
            if not isinstance(function, FunctionType) or not any(map(is_strangers, modules_of(function))):
                continue
            if Reach([function]).remembers:
                yield f"{kind.__name__}.{name}", function


def formulas(options: Mapping[str, Any], patcher: Any) -> dict[str, Any]:
    """Return the options of a patcher for guidance that can apply to another model's `patcher` too.

    A function cannot that shares state with a change of the UNet, or keeps a model in an object. If a variable of its
    closure is the main model's patcher, a copy of the function gets the other one.
    """
    present = {name: options[name] for name in FORMULAS if any(functions_in(options.get(name)))}
    if not present:
        return {}
    others = Reach(functions_in({name: value for name, value in options.items() if name not in present})).holders

    def is_formula(function: Any) -> bool:
        reach = Reach([function])
        patchers = {id(value) for cell in _cells(function) for value in content(cell) if is_patcher(value)}
        return reach.models.keys() <= patchers and not reach.holders.keys() & others.keys()

    usable: dict[str, Any] = {}
    for name, value in present.items():
        if isinstance(value, list):
            usable[name] = [_referring_to(patcher, formula) for formula in functions_in(value) if is_formula(formula)]
        elif is_formula(value):
            usable[name] = _referring_to(patcher, value)
    usable = {name: value for name, value in usable.items() if value}
    if usable and WITH_FORMULAS in options:
        usable[WITH_FORMULAS] = options[WITH_FORMULAS]
    return usable


def _cells(function: Any) -> tuple[CellType, ...]:
    return (function.__closure__ or ()) if isinstance(function, FunctionType) else ()


def _referring_to(patcher: Any, function: Any) -> Any:
    """Return a copy of a function that refers to this patcher instead of its own."""
    cells = _cells(function)
    others = tuple(CellType(patcher) if any(map(is_patcher, content(cell))) else cell for cell in cells)
    if others == cells:
        return function
    copied = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure=others
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied
