"""A1111: files that are pickles, read here and not by the host.

The host's own reader refuses the archives of newer versions of torch, and can be passed by: it looks for an archive at
a file's end, and torch at its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from modules import sd_models

from ...files.container import NEVER_UNPICKLED, refuse_code
from ...files.pickles import load_inert


def state_dict_of(filename: str, read_safetensors: Callable[[], Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The tensors of a file by the host's names, a dictionary of its own.

    read_safetensors: the host's own way, for a file that is no pickle. Refused for a file that holds more than weights,
    and the readers' exceptions for a damaged one.
    """
    refuse_code(filename)
    if Path(filename).suffix.lower() in NEVER_UNPICKLED:
        return dict(read_safetensors())
    return dict(sd_models.get_state_dict_from_checkpoint(load_inert(filename)))
