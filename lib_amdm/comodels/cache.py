"""Caches that outlive a picture: loaded checkpoints and adapters by file, and recent results such as encoded texts."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch

from ..files.state import FileState

RECENT_KEPT = 32
_SHARED = "amdm_shared"
"""An attribute of parameters: the same object for all that share their numbers in memory."""
T = TypeVar("T")


class Recent:
    """Results (encoded texts, features, small files) by everything they depend on; the least recently used go first."""

    def __init__(self, most: int = RECENT_KEPT) -> None:
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._most = most

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result for `key`, made only if it is not kept."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        result: T = self._kept[key]
        return result

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def clear(self) -> None:
        self._kept.clear()


@dataclass
class Loaded:
    """A loaded checkpoint, with the texts that it encoded, or a loaded adapter."""

    name: str
    model: torch.nn.Module
    texts: Recent = field(default_factory=Recent)


class InMemory(NamedTuple):
    """An entry of the list of loaded files. kind: "checkpoint" or "adapter". size: in bytes."""

    kind: str
    name: str
    size: int


class Pool:
    """Loaded co-models by file, the least recently used dropped first. Safe to use from the API's threads."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, Hashable], tuple[FileState, Loaded]] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, path: str, variant: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """Return the model of the file at `path`, loaded if it is not kept.

        It is loaded again if the file has changed, and for another `variant` (dtype).
        """
        state, key = FileState.of(path), (str(path), variant)
        with self._lock:
            loaded_state, loaded = self._loaded.get(key, (None, None))
            if loaded is None or loaded_state != state:
                self._loaded.pop(key, None)
                loaded = load()
                share_equal_tensors(loaded.model, [other.model for _, other in self._loaded.values()])
                self._loaded[key] = (state, loaded)
            self._loaded.move_to_end(key)
            return loaded

    def trim(self, limit: int) -> int:
        """Drop the least recently used until at most `limit` are kept, and return the number dropped."""
        with self._lock:
            dropped = max(0, len(self._loaded) - limit)
            for _ in range(dropped):
                self._loaded.popitem(last=False)
            return dropped

    def listing(self, kind: str = "checkpoint") -> list[InMemory]:
        """Return the entries, the most recently used last; tensors that two share are counted with the first."""
        with self._lock:
            seen: set[Hashable] = set()
            entries = []
            for _, loaded in self._loaded.values():
                sizes = {_place(t): t.numel() * t.element_size() for t in _tensors(loaded.model)}
                size = sum(count for place, count in sizes.items() if place not in seen)
                seen |= sizes.keys()
                entries.append(InMemory(kind, loaded.name, size))
            return entries

    def unload(self, kind: str = "checkpoint") -> list[InMemory]:
        """Drop everything, and return the entries; a picture in progress keeps its own until it is done."""
        with self._lock:
            entries = self.listing(kind)
            self._loaded.clear()
            return entries


def share_equal_tensors(model: torch.nn.Module, others: list[torch.nn.Module]) -> int:
    """Let `model` use the parameters of `others` that agree in name and value, and return the bytes saved.

    Checkpoints of one family often carry the same text encoder. Only co-models share: a host may rewrite the main
    model's weights in place.
    """
    saved, shared = 0, set[str]()
    for other in others:
        theirs = dict(other.named_parameters())
        for name, parameter in model.named_parameters():
            twin = theirs.get(name)
            if twin is None or name in shared or not _alike(parameter, twin):
                continue
            if torch.equal(parameter, twin):
                parameter.data = twin.data
                mark = getattr(twin, _SHARED, None) or object()
                setattr(twin, _SHARED, mark)
                setattr(parameter, _SHARED, mark)
                shared.add(name)
                saved += twin.numel() * twin.element_size()
    return saved


def _place(t: torch.Tensor) -> Hashable:
    """Return a key that is equal for tensors with the same numbers in memory.

    On a device without addresses (DirectML), shared tensors count as shared until they are elsewhere.
    """
    try:
        return t.data_ptr()
    except RuntimeError:
        return id(getattr(t, _SHARED, t)), t.device


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and _plain(a)


def _plain(t: torch.Tensor) -> bool:
    """Return True for a plain floating-point tensor.

    Quantised weights are meaningless without their scales, and some have a tensor class of their own.
    """
    return t.is_floating_point() and t.element_size() > 1 and type(t) in (torch.Tensor, torch.nn.Parameter)


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]
