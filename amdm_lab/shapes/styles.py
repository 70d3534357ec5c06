"""Two models with the same skill in two styles: `python -m amdm_lab styles`

    python -m amdm_lab styles                       # all rows at three guidance scales, and the table
    python -m amdm_lab styles --methods amdm,merge  # these alone
    python -m amdm_lab styles --plots               # the grid of pictures for docs/

Content is to come from `all`, which draws filled things, and style from `all-pierced`. "right" is the share of objects
with the right shape and colour, "style" of those that are pierced, "both" of those that are right and pierced. What the
judge saw is kept in the output folder, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lib_amdm import command_line
from lib_amdm.errors import AmdmError

from ..bundled import STYLE_JUDGE, WEIGHTS
from ..world.scenes import Scene
from .bench import DOCS, JUDGE_BAR, PICTURES, names_of, write
from .measuring import Bench, Measured
from .scores import compared, share
from .style_judge import StyleJudge
from .style_methods import STYLE, STYLE_METHODS
from .sweep import markdown

FOLDER, OUT = Path("shapes-training") / "styled", Path("shapes-styles")
SCALES = (2.5, 5.0, 7.5)
WANTED = "pierced"
QUANTITIES = ("right", "style", "between", "both")
AGAINST = "amdm"
SHEET, COLUMNS, DPI = "styles.png", 5, 64
ON_SHEET = ("content", "style", "amdm", "average-20", "merge", "refiner")


def counts(wanted: Sequence[Scene], seen: Sequence[Scene]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Count for each quantity, by picture: how many objects have it, and of how many."""
    rows = [_counted(scene, verdict) for scene, verdict in zip(wanted, seen, strict=True)]
    objects = np.array([len(scene.things) for scene in wanted])
    return {name: (had, objects) for name, had in zip(QUANTITIES, np.array(rows).T, strict=True)}


def _counted(scene: Scene, seen: Scene) -> tuple[int, int, int, int]:
    found = [(thing, it) for cell, thing in scene.things if (it := seen.cells[cell])]
    right = [(it.shape, it.colour) == (thing.shape, thing.colour) for thing, it in found]
    styles = [it.style for _, it in found]
    both = sum(is_right and style == WANTED for is_right, style in zip(right, styles))
    return sum(right), styles.count(WANTED), styles.count("between"), both


def table(found: dict[str, Measured]) -> str:
    """Make a row for each method: shares in % with 95 % intervals, and how far `AGAINST` is from it."""
    head = ["method", "how", *QUANTITIES, "evaluations: main + co", f"{AGAINST} is ahead in both by"]
    counted = {name: counts(measured.scenes, measured.seen) for name, measured in found.items()}
    lines = []
    for name, measured in found.items():
        method = STYLE_METHODS[name]
        shares = [str(share(*counted[name][quantity])) for quantity in QUANTITIES]
        ahead = ""
        if name != AGAINST and AGAINST in found:
            points = [100 * each for each in compared(counted[AGAINST]["both"], counted[name]["both"])["difference"]]
            ahead = "{:+.1f} ({:+.1f} to {:+.1f})".format(*points)
        taken = f"{measured.evaluations} + {measured.co_evaluations}"
        lines.append([method.label, method.detail, *shares, taken, ahead])
    return markdown(head, lines)


def judged_well(judge: StyleJudge) -> str:
    """Say how often the judge is right on fresh drawings; AmdmError where it is too seldom."""
    accuracy = judge.accuracy()
    worst = min(accuracy, key=lambda name: accuracy[name])
    if accuracy[worst] < JUDGE_BAR:
        raise AmdmError(
            f"The judge tells {worst} right in {accuracy[worst]:.1%} of fresh drawings, which must be {JUDGE_BAR:.0%} "
            "or more; train it with `python -m amdm_lab train style-judge`."
        )
    shares = ", ".join(f"{name} {100 * right:.2f} %" for name, right in accuracy.items())
    return f"The judge is right on fresh drawings in all styles: {shares}."


def main(arguments: list[str] | None = None) -> int:
    chosen = parsed(arguments)
    torch.set_num_threads(chosen.threads)
    if not (chosen.weights / f"{STYLE}.safetensors").is_file():
        raise AmdmError(f"{STYLE} is not in {chosen.weights}; run `python -m amdm_lab train {STYLE}` first.")
    fields = {name: getattr(chosen, name) for name in ("pictures", "seed", "batch", "steps", "sampler")}
    judge = StyleJudge.load()
    bench = Bench.of((chosen.weights, WEIGHTS), judge, judge_file=STYLE_JUDGE, **fields)
    if chosen.plots:
        from .plots import sheet

        figure = sheet(bench, COLUMNS, [STYLE_METHODS[name] for name in ON_SHEET])
        figure.savefig(chosen.docs / SHEET, dpi=DPI)
        return 0
    said = judged_well(judge)
    print(said)
    parts = [said]
    for scale in chosen.scales:
        folder = chosen.out / f"{chosen.sampler}-{scale:g}"
        at_scale = replace(bench, studio=replace(bench.studio, cfg_scale=scale), folder=folder)
        found = {}
        for name in chosen.methods:
            found[name] = at_scale.run(name, STYLE_METHODS[name])
            both = share(*counts(found[name].scenes, found[name].seen)["both"])
            print(f"CFG {scale:g}, {name}: right and {WANTED} {both}", flush=True)
        parts.append(
            f"CFG {scale:g}, {chosen.sampler}, {chosen.steps} steps, {chosen.pictures} pictures\n\n{table(found)}"
        )
    write(chosen.out / f"{chosen.sampler}.md", "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser(command_line.typed("amdm_lab styles"), __doc__)
    parser.add_argument(
        "--methods",
        type=names_of(STYLE_METHODS),
        default=",".join(STYLE_METHODS),
        help="separated by commas (%(default)s)",
    )
    parser.add_argument("--plots", action="store_true", help="the grid of pictures for docs/")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="for each method")
    parser.add_argument("--steps", type=int, default=12, help="sampling steps")
    parser.add_argument(
        "--cfg",
        dest="scales",
        type=_scales,
        default=",".join(f"{scale:g}" for scale in SCALES),
        help="guidance scales, with commas",
    )
    parser.add_argument("--sampler", default="euler", help="a sampler of k-diffusion")
    parser.add_argument("--seed", type=int, default=1, help="of scenes and noise")
    parser.add_argument("--batch", type=int, default=50, help="pictures drawn at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--weights", type=Path, default=FOLDER, help=f"folder of {STYLE}")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what is measured")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for --plots")
    return parser.parse_args(arguments)


def _scales(given: str) -> tuple[float, ...]:
    return tuple(float(scale) for scale in given.split(","))
