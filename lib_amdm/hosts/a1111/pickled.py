"""A1111: read pickled files here instead of in the host.

The host's own reader refuses the archives of newer versions of torch, and can be bypassed: it looks for an archive at
a file's end, but torch at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from modules import sd_models

from ...files.container import NEVER_UNPICKLED, refuse_code
from ...files.pickles import load_inert


def state_dict_of(filename: str, read_safetensors: Callable[[], Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by the host's names, in a new dictionary.

    read_safetensors: the host's own reader, for a file that is not a pickle. Refused for a file with more than weights,
    and the readers' exceptions for a damaged one.
    """
    refuse_code(filename)
    if Path(filename).suffix.lower() in NEVER_UNPICKLED:
        return dict(read_safetensors())
    return dict(sd_models.get_state_dict_from_checkpoint(load_inert(filename)))
