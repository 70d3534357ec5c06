"""What is said on every WebUI when a checkpoint cannot be used; the hosts find out that it is so."""

from __future__ import annotations

from collections.abc import Sequence

from ...adapters.pickles import Refused
from ...errors import AmdmError

ALONE = ("InstructPix2Pix", "unCLIP")
"""Kinds whose models have inputs of their own, which no other model shares."""


def refuse_main(kind: str, name: str, has_sigmas: bool) -> None:
    """AmdmError where the method is not made for the main checkpoint's kind.

    has_sigmas: whether it predicts eps or v, so that its latents are x0 + sigma * noise.
    """
    if not has_sigmas:
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {kind}, but the method needs an eps or v model; '
            "switch AMDM off or choose an SD1, SD2 or SDXL checkpoint."
        )
    if kind.endswith(ALONE):
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {kind}, which cannot be run together with others; '
            "switch AMDM off or choose another checkpoint."
        )


def refuse_stranger(slot: int, name: str, kind: str, main_name: str, main_kind: str) -> None:
    """AmdmError where the two models are not of one kind, and so do not share latents or inputs."""
    if kind != main_kind:
        raise AmdmError(
            f'AMDM slot {slot}: "{name}" is {kind}, but the main checkpoint "{main_name}" is {main_kind}; '
            "choose a checkpoint of the same kind."
        )


def refuse_holes(slot: int, name: str, holes: Sequence[str]) -> None:
    """AmdmError where the file lacks weights; the hosts themselves would fill them with something and draw noise."""
    if holes:
        raise AmdmError(
            f'AMDM slot {slot}: "{name}" lacks {len(holes)} tensors that its kind needs (first {holes[0]}); '
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


def first_line(error: Exception) -> str:
    """What a library says first, as a part of a sentence."""
    return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}".splitlines()[0]


def one_line(error: Exception) -> str:
    """What a library says, as a part of a sentence."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
