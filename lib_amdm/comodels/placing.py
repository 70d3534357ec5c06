"""The device of a slot's model, by the slot's setting."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..core.accelerator import placeable, same_place
from ..errors import AmdmError
from ..settings import AUTO, MAIN_CHECKPOINT, CoModel


def device_choices() -> list[str]:
    """Return the values of the setting that have a meaning on this machine."""
    return [AUTO, *placeable()]


def one_device(device: torch.device) -> str:
    """Return the reason of a host that has all its models on one device."""
    return "all models are on one device here"


def device_of(
    number: int, slot: CoModel, main: torch.device, reason_against: Callable[[torch.device], str]
) -> torch.device | None:
    """Return the device of a slot's model if it is another than the main model's, or None.

    number: the slot's, from 1.
    main: the main model's device.
    reason_against: why the host cannot have a co-model on a device, or "".

    AmdmError if the model cannot be there.
    """
    if slot.device == AUTO:
        return None
    prefix, name = f"AMDM co-model {number}", slot.device
    if slot.checkpoint == MAIN_CHECKPOINT:
        raise AmdmError(
            f'{prefix}: "{MAIN_CHECKPOINT}" is where the main model is, not on "{name}"; set its device to {AUTO}, or '
            "choose a checkpoint."
        )
    choices = device_choices()
    if name not in choices:
        raise AmdmError(f'{prefix}: device "{name}" is not one of {", ".join(choices)}; choose one of these.')
    device = torch.device(name)
    if same_place(device, main):
        return None
    reason = reason_against(device)
    if reason:
        raise AmdmError(f'{prefix}: device "{name}" cannot be used, since {reason}; set its device to {AUTO}.')
    return device
