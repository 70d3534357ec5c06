"""Watching models while a picture is drawn: evaluations, their time, where their inputs and weights are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lib_amdm.core.readings import Stopwatch


@dataclass
class Seen:
    """Of one picture. evaluations: of each network, in the order they were given. inside: seconds in all of them.

    inputs: the device and dtype of every latent that a network was shown.
    """

    evaluations: list[int]
    seconds: float = 0.0
    inside: float = 0.0
    inputs: set[tuple[str, str]] = field(default_factory=set)

    @property
    def outside(self) -> float:
        """Seconds of the picture in which no network was evaluated."""
        return self.seconds - self.inside


@contextmanager
def watched(
    networks: Sequence[nn.Module], device: torch.device, first: Callable[[], None] = lambda: None
) -> Iterator[Seen]:
    """Watch the networks' evaluations; what is yielded is whole once the context is left.

    first: called before the first evaluation.
    """
    seen = Seen([0] * len(networks))
    watch = Stopwatch(device)
    laps: list[Any] = []

    def before(number: int) -> Callable[..., None]:
        def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not any(seen.evaluations):
                first()
            seen.evaluations[number] += 1
            x = args[0] if args else kwargs["sample"]
            seen.inputs.add((str(x.device), _name(x.dtype)))
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
        yield seen
        finish(device)
        inside = watch.seconds
        assert inside is not None  # the CPU and CUDA say it
        seen.seconds, seen.inside = time.perf_counter() - began, inside
    finally:
        for handle in handles:
            handle.remove()


def finish(device: torch.device) -> None:
    """Wait until a GPU has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def placed(networks: Sequence[nn.Module], inputs: set[tuple[str, str]]) -> str:
    """Say on which device and in which dtype the weights and the inputs are: one place where all is well."""
    weights = {(str(each.device), _name(each.dtype)) for network in networks for each in network.parameters()}
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
    """Return the most bytes that were held since `start_peak`; None where the device does not say."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def held(device: torch.device) -> int | None:
    """Return the bytes that are held now; None where the device does not say."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None
