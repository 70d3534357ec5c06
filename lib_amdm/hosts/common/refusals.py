"""The errors for checkpoints that cannot be used, in the same words on every WebUI."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import AmdmError, cause
from ...families import WITHOUT_FLOW, Family
from ...files.pickles import Refused
from ..webui_types import CheckpointInfo

TEXTS = ("cond_stage_model.", "conditioner.", "text_encoders.")
"""Beginnings of the names of text encoders' weights in a checkpoint."""


def refuse_main(family: Family, name: str, others: str) -> None:
    """Raise AmdmError if no other model can be run with the main checkpoint. others: the co-models' names."""
    if family.runs_alone:
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {family}, which cannot be run together with {others}: '
            f"{family.peculiarity}; switch AMDM off or choose another checkpoint."
        )


def refuse_flow(family: Family, name: str) -> None:
    """Raise AmdmError for a flow model, on a WebUI in which AMDM runs none."""
    if family.is_flow:
        raise AmdmError(
            f'AMDM: the main checkpoint "{name}" is {family}, but {WITHOUT_FLOW}; '
            "switch AMDM off or choose an SD1, SD2 or SDXL checkpoint."
        )


def refuse_other_family(
    slot: int, info: CheckpointInfo, family: Family, main_info: CheckpointInfo, main_family: Family
) -> None:
    """Raise AmdmError if the two models cannot be run together.

    info, main_info: the host's entries for the files.
    """
    reason_against = family.reason_against(main_family)
    if reason_against:
        raise AmdmError(
            f'AMDM co-model {slot}: "{info.name}" is {family}, but the main checkpoint "{main_info.name}" is '
            f"{main_family}: {reason_against}; choose a checkpoint of the same kind."
        )


def refuse_flow_beside(slot: int, info: CheckpointInfo, family: Family) -> None:
    """Raise AmdmError for a co-model that is a flow model, on a WebUI in which AMDM runs none."""
    if family.is_flow:
        raise AmdmError(
            f'AMDM co-model {slot}: "{info.name}" is {family}, but {WITHOUT_FLOW}; '
            "choose an SD1, SD2 or SDXL checkpoint."
        )


def refuse_missing_tensors(slot: int, name: str, missing: Sequence[str]) -> None:
    """Raise AmdmError if the file lacks weights; the hosts themselves would fill them in and draw noise."""
    if missing:
        raise AmdmError(
            f'AMDM co-model {slot}: "{name}" lacks {len(missing)} tensors that its kind needs (first {missing[0]}); '
            "download it again or choose another checkpoint."
        )


def not_enough_memory(error_prefix: str, name: str, remedy: str) -> AmdmError:
    """Return the error for a model that does not fit on the GPU with the main one. remedy: the host's, or ""."""
    others = f"fewer co-models, a smaller picture, or {remedy}" if remedy else "fewer co-models or a smaller picture"
    return AmdmError(
        f'{error_prefix}: there is not enough GPU memory for "{name}" and the main checkpoint; use {others}.'
    )


def unreadable(slot: int, name: str, reason: str) -> AmdmError:
    """Return the error for a file without readable tensors."""
    return AmdmError(
        f'AMDM co-model {slot}: "{name}" cannot be read ({reason}); download it again or choose another checkpoint.'
    )


def without_unet(slot: int, name: str) -> AmdmError:
    """Return the error for a file that is not a checkpoint."""
    return AmdmError(f'AMDM co-model {slot}: "{name}" has no UNet in it; choose a whole checkpoint.')


def without_texts(slot: int, name: str) -> AmdmError:
    """Return the error for a file of only a network, on a WebUI without a text encoder for it."""
    return AmdmError(f'AMDM co-model {slot}: "{name}" has no text encoder in it; choose a whole checkpoint.')


def without_text_encoder(slot: int, name: str) -> AmdmError:
    """Return the error for a file with no text encoder in it or among the user's modules."""
    return AmdmError(
        f'AMDM co-model {slot}: "{name}" has no text encoder in it, and the main checkpoint has another kind; choose '
        'its text encoder in "VAE / Text Encoder" too, or name it under the co-model\'s own.'
    )


def without_autoencoder(slot: int, name: str, remedy: str) -> AmdmError:
    """Return the error for a file without a VAE, whose latents are not the main model's. remedy: the host's."""
    return AmdmError(
        f'AMDM co-model {slot}: "{name}" has other latents than the main checkpoint, and no VAE in it; {remedy}.'
    )


def packed_on_cpu(slot: int, name: str) -> AmdmError:
    """Return the error for a file in low bits with separate scales, which the hosts read on a GPU."""
    return AmdmError(
        f'AMDM co-model {slot}: "{name}" is quantized (GGUF, nf4), which device "cpu" does not run; set its device to '
        "auto, or choose another checkpoint."
    )


def reason(error: Exception) -> str:
    """Say why a file cannot be read, as a part of a sentence."""
    return str(error) if isinstance(error, Refused) else cause(error)
