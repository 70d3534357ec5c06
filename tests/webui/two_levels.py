"""A checkpoint of SD1.5's widths with two levels, for effects on the deeper ones alone.

Run with the WebUI's own Python, from the WebUI's directory, as `checkpoints.py`, with `--out DIR`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import checkpoints

NAME = "alpha"
SIZES = replace(
    checkpoints.GUESSED,
    unets={"sd1": {**checkpoints.GUESSED.unets["sd1"], "channel_mult": [1, 2], "attention_resolutions": [1, 2]}},
)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments, flags = parser.parse_known_args()
    checkpoints._use_webui(Path.cwd(), flags)
    import torch

    torch.set_num_threads(1)
    checkpoints.write_all(arguments.out.resolve(), [NAME], SIZES)


if __name__ == "__main__":
    main()
