"""GGUF files as the WebUIs' readers find them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np


def write_gguf(file: Path, architecture: str, tensors: Iterable[tuple[str, np.ndarray, Any]]) -> Path:
    """Write tensors: their names, their values, and the kind of quantization that these are in; None for none."""
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    for name, values, kind in tensors:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
