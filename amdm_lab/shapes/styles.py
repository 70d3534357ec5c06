"""Two models with the same skill in two styles.

    styles                       # all rows at three guidance scales, and the table
    styles --methods amdm,merge  # these alone
    styles --plots               # the grid of pictures for docs/

Content is to come from `all`, which draws filled things, and style from `all-pierced`. "right" is the share of objects
with the right shape and colour, "style" of those that are pierced, "both" of those that are right and pierced. The
judge's verdicts are kept in the output folder, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lib_amdm.errors import AmdmError

from ..arguments import add_measuring, add_rows, names_of
from ..bundled import STYLE_JUDGE, WEIGHTS
from ..judges.scenes import StyleJudge, in_percent
from ..statistics import Counts, difference, share
from ..table import markdown
from ..world.scenes import Scene
from .bench import PICTURES, write
from .measuring import Bench, Measured
from .style_methods import STYLE, STYLE_METHODS

FOLDER = Path("shapes-training") / "styled"
SCALES = (2.5, 5.0, 7.5)
WANTED = "pierced"
QUANTITIES = ("right", "style", "between", "both")
AGAINST = "amdm"
SHEET, COLUMNS, DPI = "styles.png", 5, 64
ON_SHEET = ("content", "style", "amdm", "average-20", "merge", "refiner")


def counts(wanted: Sequence[Scene], verdicts: Sequence[Scene]) -> dict[str, Counts]:
    """Count for each quantity, by picture: how many objects have it, and of how many."""
    rows = [_counted(scene, verdict) for scene, verdict in zip(wanted, verdicts, strict=True)]
    objects = np.array([len(scene.things) for scene in wanted])
    return {name: (had, objects) for name, had in zip(QUANTITIES, np.array(rows).T, strict=True)}


def _counted(scene: Scene, verdict: Scene) -> tuple[int, int, int, int]:
    pairs = [(thing, seen) for cell, thing in scene.things if (seen := verdict.cells[cell])]
    right = [(seen.shape, seen.colour) == (thing.shape, thing.colour) for thing, seen in pairs]
    styles = [seen.style for _, seen in pairs]
    both = sum(is_right and style == WANTED for is_right, style in zip(right, styles))
    return sum(right), styles.count(WANTED), styles.count("between"), both


def table(measured: dict[str, Measured]) -> str:
    """Make a row for each method: shares in % with 95 % intervals, and how far `AGAINST` is ahead of it."""
    counted = {name: counts(of_method.scenes, of_method.verdicts) for name, of_method in measured.items()}
    lines = []
    for name, of_method in measured.items():
        method = STYLE_METHODS[name]
        shares = [str(share(*counted[name][quantity])) for quantity in QUANTITIES]
        ahead = ""
        if name != AGAINST and AGAINST in measured:
            (ours, of), (theirs, _) = counted[AGAINST]["both"], counted[name]["both"]
            ahead = "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * end for end in difference(ours, theirs, of)))
        lines.append([method.label, method.detail, *shares, of_method.taken, ahead])
    head = ["method", "how", *QUANTITIES, "evaluations: main + co", f"{AGAINST} is ahead in both by"]
    return markdown(head, lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--methods",
        type=names_of(STYLE_METHODS),
        default=",".join(STYLE_METHODS),
        help="separated by commas (%(default)s)",
    )
    parser.add_argument("--plots", action="store_true", help="the grid of pictures for docs/")
    add_measuring(parser, "for each method", PICTURES, FOLDER)
    add_rows(parser, 12, _scales, ",".join(f"{scale:g}" for scale in SCALES), Path("shapes-styles"))


def run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    if not (options.weights / f"{STYLE}.safetensors").is_file():
        raise AmdmError(f"{STYLE} is not in {options.weights}; run `python -m amdm_lab train {STYLE}` first.")
    fields = {name: getattr(options, name) for name in ("pictures", "seed", "batch", "steps", "sampler")}
    judge = StyleJudge.load()
    bench = Bench.of((options.weights, WEIGHTS), judge, judge_file=STYLE_JUDGE, **fields)
    if options.plots:
        from .plots import sheet

        figure = sheet(bench, COLUMNS, [STYLE_METHODS[name] for name in ON_SHEET])
        figure.savefig(options.docs / SHEET, dpi=DPI)
        return
    parts = [f"The judge is right on fresh drawings in all styles: {in_percent(judge.check('style-judge'))}."]
    print(parts[0])
    for scale in options.cfg_scale:
        folder = options.out / f"{options.sampler}-{scale:g}"
        at_scale = replace(bench, studio=replace(bench.studio, cfg_scale=scale), folder=folder)
        measured = {}
        for name in options.methods:
            measured[name] = at_scale.run(name, STYLE_METHODS[name])
            both = share(*counts(measured[name].scenes, measured[name].verdicts)["both"])
            print(f"CFG {scale:g}, {name}: right and {WANTED} {both}", flush=True)
        parts.append(
            f"CFG {scale:g}, {options.sampler}, {options.steps} steps, {options.pictures} pictures\n\n{table(measured)}"
        )
    write(options.out / f"{options.sampler}.md", "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


def _scales(text: str) -> tuple[float, ...]:
    return tuple(float(scale) for scale in text.split(","))
