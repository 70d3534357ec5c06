"""The devices that a command may name, and why one cannot be used."""

from __future__ import annotations

import shutil

import torch

from lib_amdm.errors import AmdmError

HOW = "pytorch.org/get-started/locally has the pip command, to be run with the Python of .venv"


def device_of(name: str, argument: str = "--device") -> torch.device:
    """Return the device of a name; AmdmError if torch does not know it, or it is not there."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise AmdmError(f'{argument} "{name}" is not a device; choose cuda, cuda:1 or cpu.') from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise AmdmError(f'{argument} "{name}": {no_cuda()}, or choose cpu.')
        if (device.index or 0) >= torch.cuda.device_count():
            devices = ", ".join(f"cuda:{index}" for index in range(torch.cuda.device_count()))
            raise AmdmError(f'{argument} "{name}" is not there; choose from cuda, {devices}.')
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise AmdmError(f'{argument} "{name}" is not there: it needs a Mac with Apple silicon; choose cpu.')
    return device


def no_cuda() -> str:
    """Return a part of a sentence: why there is no CUDA device, and what to do."""
    if built_without_cuda():
        return (
            f"There is no CUDA device here that this torch can use: {torch.__version__} is built for the CPU alone, as "
            f"PyPI's for Windows is; install one with CUDA ({HOW})"
        )
    return "There is no CUDA device here; run this on a machine with one"


def idle_card() -> str:
    """Return a sentence if a card is there and torch cannot use it; "" otherwise."""
    if not built_without_cuda() or not shutil.which("nvidia-smi"):
        return ""
    return (
        f"Drawing on the CPU: there is an NVIDIA card, but torch {torch.__version__} is built for the CPU alone, as "
        f"PyPI's for Windows is; for the card install one with CUDA ({HOW})."
    )


def built_without_cuda() -> bool:
    return torch.version.cuda is None and torch.version.hip is None
