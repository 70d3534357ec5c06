"""Records kept beside pictures, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_whole(file: Path, content: Any) -> None:
    """Write JSON into a file that is there whole or not at all."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
    unfinished.replace(file)
