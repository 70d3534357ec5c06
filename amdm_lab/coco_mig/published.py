"""COCO-MIG as published: its definitions, and its figures for comparison.

Sources: the benchmark's repository LeyRio/MIG_Bench (`mig_bench_prepare.py`, `mig_bench_sample.py`, `eval_mig.py`), the
repository of its method limuloo/MIGC, and the paper's own repository Hammour-steak/AMDM (`infer800.py`,
`mig_bench.json`, `interactmigc.py`); facts alone are taken from them.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = (2, 3, 4, 5, 6)
"""The numbers of instances that a layout may have; a fifth of the entries is of each."""
ENTRIES = 800
LEAST_SIDE = 1 / 8
"""An instance with a box of less than this share of the picture's width or of its height is left out."""
LEFT_OUT = "person"
"""A layout with one of these is not used."""
SIZE = 512
"""Pixels along a side of the pictures that are judged."""
LEAST_OVERLAP = 0.5
"""Intersection over union with the wanted box, from which on an instance is in its place."""
LEAST_COLOUR = 0.2
"""The share of an instance's pixels in its colour's ranges, from which on it has its colour."""
LEAST_SCORE = 0.25
"""The score that a box must be above to be a detection."""
SUPPRESSED_OVERLAP = 0.8
"""Of two detections that overlap by more, the one with the lower score is left out."""

HsvRange = tuple[tuple[int, int, int], tuple[int, int, int]]
"""The lowest and the highest hue (0 to 180), saturation and value (0 to 255), both included."""

COLOURS: dict[str, tuple[HsvRange, ...]] = {
    "red": (((0, 50, 70), (9, 255, 255)), ((159, 50, 70), (180, 255, 255))),
    "blue": (((90, 50, 70), (128, 255, 255)),),
    "green": (((36, 50, 70), (89, 255, 255)),),
    "yellow": (((25, 50, 70), (35, 255, 255)),),
    "black": (((0, 0, 0), (180, 255, 30)),),
    "white": (((0, 0, 221), (180, 43, 255)),),
    "brown": (((6, 43, 35), (25, 255, 255)),),
}
"""The colours, and which pixels have them.

The paper says eight colours; its own `mig_bench.json`, the published sampler and the published judge have these seven.
"""


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table, in percent: by level, and of all instances. seconds: for a picture."""

    label: str
    success: tuple[float, ...]
    overlap: tuple[float, ...]
    all_success: float
    all_overlap: float
    seconds: float | None = None


PAPER = (
    PublishedRow(
        "paper: InteractDiffusion",
        (31.87, 26.66, 23.90, 23.37, 23.85),
        (27.99, 24.13, 21.45, 21.51, 21.16),
        24.96,
        22.44,
        18.76,
    ),
    PublishedRow(
        "paper: InteractDiffusion(+MIGC)",
        (57.18, 52.91, 52.65, 49.62, 47.39),
        (50.73, 45.54, 44.66, 43.54, 43.23),
        50.81,
        44.69,
        19.45,
    ),
)
"""The paper's Table 1, on an RTX 3090."""
MIGC_PAGE = PublishedRow("MIGC's page: MIGC", (74, 67, 67, 63, 66), (64, 58, 57, 54, 57), 66, 56)
"""From the table in limuloo/MIGC's README, on its own 800 entries."""
