"""The pictures of docs/: a sheet of drawings, the table as bars, and the sweep as heat maps."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lib_amdm.errors import AmdmError

from ..world.captions import caption
from ..world.scenes import Scene
from .measuring import Bench
from .methods import METHODS
from .rows import Method

SHEET, BARS, HEATMAPS = "shapes_pictures.png", "shapes_benchmark.png", "shapes_sweep.png"
ON_SHEET = ("shapes", "colours", "average", "merge", "and-shapes", "released", "amdm", "amdm-three", "all")
COLUMNS = 8
SHOWN = ("shape", "colour", "both", "all three")
DPI = 110


def write_plots(bench: Bench, out: Path, docs: Path) -> None:
    """Write all of them to the folder `docs`, from table.json and sweep.json in the folder `out`."""
    table, sweep = (_read(out / name, how) for name, how in (("table.json", ""), ("sweep.json", " --sweep")))
    docs.mkdir(parents=True, exist_ok=True)
    for name, figure in ((SHEET, sheet(bench)), (BARS, bars(table["methods"])), (HEATMAPS, heatmaps(sweep))):
        figure.savefig(docs / name, dpi=DPI)
        print(docs / name)


def _read(file: Path, how: str) -> dict[str, Any]:
    if not file.is_file():
        raise AmdmError(f"{file} is missing; run `python -m amdm_lab shapes{how}` first.")
    return json.loads(file.read_text())


def sheet(bench: Bench, columns: int = COLUMNS, methods: Sequence[Method] | None = None) -> Figure:
    """Draw a sheet: rows are methods, columns the benchmark's first scenes; a column has one seed."""
    methods = methods or [METHODS[name] for name in ON_SHEET]
    scenes, seeds = bench.scenes()[:columns], bench.seeds()[:columns]
    figure = Figure(figsize=(1.2 + 1.3 * columns, 1.0 + 1.3 * len(methods)), layout="constrained")
    axes = figure.subplots(len(methods), len(scenes), squeeze=False)
    for row, method in zip(axes, methods):
        drawn = bench.studio.pictures(method.draw(bench.studio, scenes, seeds))
        for cell, picture in zip(row, drawn):
            cell.imshow((picture.permute(1, 2, 0).numpy() + 1) / 2)
            cell.set(xticks=[], yticks=[])
            for edge in cell.spines.values():
                edge.set_visible(False)
        row[0].set_ylabel(plain(method.label), rotation=0, ha="right", va="center", fontsize=9)
    for cell, scene in zip(axes[0], scenes):
        cell.set_title(_lines(scene), fontsize=7)
    return figure


def _lines(scene: Scene) -> str:
    return "\n".join(textwrap.fill(part, 22) for part in caption(scene).split(", "))


def plain(label: str) -> str:
    """Strip a label of Markdown, and break it into short lines."""
    return textwrap.fill(label.replace("*", "").replace("`", ""), 18)


def bars(methods: dict[str, Any]) -> Figure:
    """Plot every method's shares with their 95 % intervals."""
    figure = Figure(figsize=(9, 0.55 * len(methods) + 1), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(methods))[::-1]
    height = 0.8 / len(SHOWN)
    for number, quantity in enumerate(SHOWN):
        values, low, high = (
            np.array([100 * row[quantity][end] for row in methods.values()]) for end in ("value", "low", "high")
        )
        middle = places + 0.4 - (number + 0.5) * height
        # rounding may put an end past its value by a hair
        ends = np.maximum([values - low, high - values], 0)
        axes.barh(middle, values, height, xerr=ends, label=quantity, error_kw={"lw": 0.8})
    labels = [f"{row['label']}, {row['detail']}".replace("*", "").replace("`", "") for row in methods.values()]
    axes.set_yticks(places, [textwrap.fill(label, 46) for label in labels], fontsize=7)
    axes.set(xlim=(0, 100), xlabel="% right, with 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1), ncols=len(SHOWN), frameon=False)
    return figure


def heatmaps(sweep: dict[str, Any]) -> Figure:
    """Plot a map for each grid, of what it was to be best at."""
    across = 2 if len(sweep) > 1 else 1
    down = -(-len(sweep) // across)
    figure = Figure(figsize=(5.5 * across, 4.4 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).flatten()
    for place, grid in zip(axes, sweep.values()):
        (row_name, rows), (column_name, columns) = grid["rows"], grid["columns"]
        values = 100 * np.array(grid[grid["wanted"]])
        place.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        place.set_xticks(range(len(columns)), columns)
        place.set_yticks(range(len(rows)), rows)
        place.set(xlabel=column_name, ylabel=row_name, title=f"{grid['title']}\n{grid['wanted']} right, %")
        for (i, j), value in np.ndenumerate(values):
            place.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 60 else "black")
    for place in axes[len(sweep) :]:
        place.set_axis_off()
    return figure
