"""The errors for checkpoints that cannot be used, in the same words on every WebUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...adapters.pickles import Refused
from ...errors import AmdmError, cause
from ...families import Family


def refuse_main(family: Family, name: str) -> None:
    """AmdmError where the method is not made for the main checkpoint's family."""
    if not family.has_sigmas:
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {family}, but the method needs an eps or v model; '
            "switch AMDM off or choose an SD1, SD2 or SDXL checkpoint."
        )
    if family.runs_alone:
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {family}, which cannot be run together with others; '
            "switch AMDM off or choose another checkpoint."
        )


def refuse_other_family(slot: int, info: Any, family: Family, main_info: Any, main_family: Family) -> None:
    """AmdmError where the two models are not of one family, and so do not share latents or inputs.

    info, main_info: the host's entries for the files.
    """
    if family != main_family:
        raise AmdmError(
            f'AMDM slot {slot}: "{info.name}" is {family}, but the main checkpoint "{main_info.name}" is '
            f"{main_family}; choose a checkpoint of the same kind."
        )


def refuse_missing_tensors(slot: int, name: str, missing: Sequence[str]) -> None:
    """AmdmError where the file lacks weights; the hosts themselves would fill them with something and draw noise."""
    if missing:
        raise AmdmError(
            f'AMDM slot {slot}: "{name}" lacks {len(missing)} tensors that its kind needs (first {missing[0]}); '
            "download it again or choose another checkpoint."
        )


def unreadable(slot: int, name: str, reason: str) -> AmdmError:
    """The error for a file that gives no tensors."""
    return AmdmError(
        f'AMDM slot {slot}: "{name}" cannot be read ({reason}); download it again or choose another checkpoint.'
    )


def without_unet(slot: int, name: str) -> AmdmError:
    """The error for a file that holds something else than a checkpoint."""
    return AmdmError(f'AMDM slot {slot}: "{name}" has no UNet in it; choose a whole checkpoint.')


def reason(error: Exception) -> str:
    """Why a file cannot be read, as a part of a sentence."""
    return str(error) if isinstance(error, Refused) else cause(error)
