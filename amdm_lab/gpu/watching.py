"""Watching models while a picture is drawn: evaluations, their time, places of inputs and weights, files opened."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib_amdm.core.readings import Stopwatch


@dataclass
class Observed:
    """Observations of one picture."""

    evaluations: list[int]
    """The evaluations of each network."""
    seconds: float = 0.0
    inside: float = 0.0
    """Seconds in all evaluations."""
    inputs: set[tuple[str, str]] = field(default_factory=set)
    """The device and dtype of every latent that a network was shown."""

    @property
    def outside(self) -> float:
        """Seconds of the picture in which no network was evaluated."""
        return self.seconds - self.inside


@contextmanager
def watched(
    networks: Sequence[nn.Module], device: torch.device, first: Callable[[], None] = lambda: None
) -> Iterator[Observed]:
    """Watch the networks' evaluations; the result is complete when the context ends.

    first: called before the first evaluation.
    """
    observed = Observed([0] * len(networks))
    watch = Stopwatch(device)
    laps: list[Any] = []

    def before(number: int) -> Callable[..., None]:
        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not any(observed.evaluations):
                first()
            observed.evaluations[number] += 1
            x = args[0] if args else kwargs["sample"]
            observed.inputs.add((str(x.device), _name(x.dtype)))
            lap = watch.running()
            lap.__enter__()
            laps.append(lap)

        return begin

    def after(module: nn.Module, args: Any, output: Any) -> None:
        laps.pop().__exit__(None, None, None)

    handles = [network.register_forward_pre_hook(before(n), with_kwargs=True) for n, network in enumerate(networks)]
    handles += [network.register_forward_hook(after) for network in networks]
    finish(device)
    began = time.perf_counter()
    try:
        yield observed
        finish(device)
        inside = watch.seconds
        assert inside is not None  # the CPU and CUDA say it
        observed.seconds, observed.inside = time.perf_counter() - began, inside
    finally:
        for handle in handles:
            handle.remove()


def quickest(draw: Callable[[], object], networks: Sequence[nn.Module], device: torch.device, turns: int) -> Observed:
    """Return what was observed of the quickest of a few pictures."""
    all_observed = []
    for _ in range(turns):
        with watched(networks, device) as observed:
            draw()
        all_observed.append(observed)
    return min(all_observed, key=lambda observed: observed.seconds)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def placed(networks: Sequence[nn.Module], inputs: set[tuple[str, str]]) -> str:
    """Return the devices and dtypes of the weights, and of inputs elsewhere: one place where all is well."""
    weights = {(str(weight.device), _name(weight.dtype)) for network in networks for weight in network.parameters()}
    where = " and ".join(" ".join(place) for place in sorted(weights))
    others = {device for device, _ in inputs} - {device for device, _ in weights}
    return f"{where}, but shown latents on {', '.join(sorted(others))}" if others else where


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def start_peak(device: torch.device) -> None:
    """Count a GPU's peak of memory anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> int | None:
    """Return the most bytes that were held since `start_peak`; None if the device does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def held(device: torch.device) -> int | None:
    """Return the bytes that are held now; None if the device does not say."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


_watched_folders: list[tuple[Path, list[str]]] = []
_hooked: list[bool] = []


@contextmanager
def opened_files(folder: Path) -> Iterator[list[str]]:
    """Collect the names of a folder's files that Python opens; it reads a checkpoint's header."""
    if not _hooked:
        # an audit hook stays until the process ends
        sys.addaudithook(_note_opened)
        _hooked.append(True)
    entry: tuple[Path, list[str]] = (folder.resolve(), [])
    _watched_folders.append(entry)
    try:
        yield entry[1]
    finally:
        _watched_folders.remove(entry)


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _watched_folders or not isinstance(arguments[0], (str, bytes)):
        return
    path = Path(arguments[0].decode(errors="replace") if isinstance(arguments[0], bytes) else arguments[0])
    for folder, names in list(_watched_folders):
        if folder in path.absolute().parents:
            names.append(path.name)
