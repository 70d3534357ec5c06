"""The benchmark: whether AMDM draws what two checkpoints know.

    shapes                      # all methods, 500 pictures each, and the table
    shapes --methods amdm,all   # these alone, without the table: for several processes
    shapes --sweep              # grids over AMDM's settings, on other scenes and seeds
    shapes --fast               # a few methods on few pictures; fails where AMDM does
    shapes --plots              # the pictures of docs/, from what the others left in --out

Captions, scenes and seeds depend on --seed alone and are the same for all methods. The judge's verdicts are kept in the
output folder after each batch, so a stopped run goes on, and a run with more pictures adds to them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import statistics
from ..arguments import add_measuring, add_rows, names_of
from ..judges.scenes import in_percent
from ..statistics import Estimate
from ..table import markdown
from .measuring import Bench, Measured, machine
from .methods import ADAPTER_METHODS, FLOW_METHODS, METHODS, PROJECTED_METHODS, WIDE_METHODS
from .scores import QUANTITIES, counts
from .sweep import GRIDS, sweep, tables

PICTURES, SWEEP_PICTURES, FAST_PICTURES = 500, 48, 48
UNLISTED = {**PROJECTED_METHODS, **FLOW_METHODS, **WIDE_METHODS}
"""Rows that are not in the table, by their names on the command line."""
ROWS = {**METHODS, **ADAPTER_METHODS, **UNLISTED}
SINGLE = ("shapes", "colours")
TWO_MODELS = [name for name in METHODS if name not in ("backgrounds", "all", "amdm-three", "average-three")]
FAST_METHODS = ("shapes", "colours", "amdm")
FAST_UNGUIDED = ("average", "amdm-unguided")
"""With guidance, averaging in all steps reaches nearly everything too; without it, the methods differ."""
FAST_RATIO = 2.0
"""The ratio to a single checkpoint that AMDM must surely reach in the fast run: less than the bar, so that few pictures
are enough, and far from the 1.0 that a broken AMDM reaches."""


@dataclass(frozen=True)
class Bar:
    """A bar for a method against the best of the others."""

    title: str
    method: str
    others: Sequence[str]
    quantity: str
    kind: str
    """"ratio" or "difference", of the shares."""
    least: float


BARS = (
    Bar("AMDM / better single checkpoint, both right", "amdm", SINGLE, "both", "ratio", 3.0),
    Bar("AMDM / average in all steps, both right", "amdm", ("average",), "both", "ratio", 1.3),
    Bar("AMDM - `all`, both right", "amdm", ("all",), "both", "difference", -0.1),
    Bar("three models / best with two, all three right", "amdm-three", TWO_MODELS, "all three", "ratio", 2.0),
)


def table(measured: dict[str, Measured], seconds: Sequence[float]) -> str:
    """Make a row for each method: shares in % with 95 % intervals, evaluations and seconds of one picture."""
    lines = []
    for (name, of_method), each_picture in zip(measured.items(), seconds):
        method, shares = ROWS[name], of_method.shares
        shown = [str(shares[quantity]) for quantity in QUANTITIES]
        lines.append([method.label, method.detail, *shown, of_method.taken, f"{each_picture:.3f}"])
    return markdown(["method", "how", *QUANTITIES, "evaluations: main + co", "seconds"], lines)


def bars(measured: dict[str, Measured]) -> list[dict[str, Any]]:
    """Compare with the bars that these methods allow: value, 95 % interval, and the bar."""
    rows = []
    for bar in BARS:
        others = [name for name in bar.others if name in measured]
        if bar.method in measured and len(others) == len(bar.others):
            best = max(others, key=lambda name: measured[name].shares[bar.quantity].value)
            estimate = compared(measured, bar.method, best, bar.quantity, bar.kind)
            row = {"title": bar.title, "against": best, "kind": bar.kind, **estimate._asdict()}
            rows.append({**row, "least": bar.least, "reached": estimate.value >= bar.least})
    return rows


def compared(measured: dict[str, Measured], one: str, other: str, quantity: str, kind: str) -> Estimate:
    """Return the ratio or the difference of two methods' shares."""
    (first, of), (second, _) = (
        counts(measured[name].scenes, measured[name].verdicts)[quantity] for name in (one, other)
    )
    return statistics.ratio(first, second) if kind == "ratio" else statistics.difference(first, second, of)


def bars_table(rows: Sequence[dict[str, Any]]) -> str:
    def number(row: dict[str, Any], name: str) -> str:
        return f"{row[name]:.2f}" if row["kind"] == "ratio" else f"{100 * row[name]:+.1f} points"

    lines = [
        [
            row["title"],
            f"`{row['against']}`",
            number(row, "value"),
            f"{number(row, 'low')} to {number(row, 'high')}",
            f">= {number(row, 'least')}",
            "yes" if row["reached"] else "no",
        ]
        for row in rows
    ]
    return markdown(["what", "against", "found", "95 % interval", "bar", "reached"], lines)


def conditions(bench: Bench, accuracy: dict[str, float]) -> str:
    """Describe the conditions of the figures in one paragraph."""
    studio = bench.studio
    objects = sum(len(scene.things) for scene in bench.scenes())
    return (
        f"{bench.pictures} pictures and {objects} objects for each method, seed {bench.seed}, {studio.sampler}, "
        f"{studio.steps} steps, CFG {studio.cfg_scale:g}. The judge is right on fresh drawings: "
        f"{in_percent(accuracy)}. Shares in %, with 95 % Wilson intervals for objects that are correlated within their "
        "picture (cluster-robust); background is by picture, all else by object. An evaluation is one guided "
        "prediction of a picture. Seconds for one picture, decoding included, methods in turns in one process, "
        f"batches of 16: {machine()}."
    )


def measure_all(bench: Bench, names: Sequence[str]) -> dict[str, Measured]:
    measured = {}
    for name in names:
        measured[name] = bench.run(name, ROWS[name])
        print(f"{name}: both right {measured[name].shares['both']}", flush=True)
    return measured


def write_table(bench: Bench, measured: dict[str, Measured], accuracy: dict[str, float], out: Path) -> None:
    """Write table.md for people, and table.json for plots."""
    seconds = bench.seconds([ROWS[name] for name in measured])
    reached = bars(measured)
    text = "\n\n".join([conditions(bench, accuracy), table(measured, seconds), bars_table(reached)]) + "\n"
    rows = {
        name: {
            "label": ROWS[name].label,
            "detail": ROWS[name].detail,
            **{quantity: share.to_dict() for quantity, share in of_method.shares.items()},
            "evaluations": of_method.evaluations,
            "co_evaluations": of_method.co_evaluations,
            "seconds": round(each_picture, 4),
        }
        for (name, of_method), each_picture in zip(measured.items(), seconds)
    }
    body = {"conditions": {**bench.conditions(), "pictures": bench.pictures, "machine": machine(), "judge": accuracy}}
    write(out / "table.json", json.dumps({**body, "methods": rows, "bars": reached}, indent=1) + "\n")
    write(out / "table.md", text)
    print(f"\n{text}")


def run_sweep(bench: Bench, names: list[str], out: Path) -> None:
    """Add the grids to sweep.json and sweep.md.

    The scenes and seeds are not the table's: what is chosen on them is not measured on them.
    """
    apart = replace(bench, seed=bench.seed + 1, folder=out / "sweep")
    file = out / "sweep.json"
    new = sweep(apart, names)
    grids = {**(json.loads(file.read_text()) if file.is_file() else {}), **new}
    write(file, json.dumps(grids) + "\n")
    write(out / "sweep.md", tables(grids, bench.pictures))
    print(tables(new, bench.pictures))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def fast_failures(measured: dict[str, Measured]) -> list[str]:
    """List what is wrong with AMDM.

    The lower end of an interval must pass each bar, so that chance does not hide a fault. The bars are far below what
    AMDM reaches, so that chance alone does not fail the run.
    """
    wanted = [("amdm", name, "ratio", FAST_RATIO, f"{FAST_RATIO:g} times") for name in SINGLE]
    wanted.append(("amdm-unguided", "average", "difference", 0.0, "more than"))
    failures = []
    for ours, name, kind, bar, much in wanted:
        if not compared(measured, ours, name, "both", kind).low > bar:
            amdm, other = (measured[method].shares["both"] for method in (ours, name))
            failures.append(f"AMDM has both right in {amdm} %, which is not surely {much} what {name} has, {other} %.")
    return failures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--methods", type=names_of(ROWS), help=f"of {', '.join(ROWS)}; separated by commas")
    what.add_argument(
        "--sweep", type=names_of(GRIDS), nargs="?", const=list(GRIDS), help=f"all, or of {', '.join(GRIDS)}"
    )
    what.add_argument("--fast", action="store_true", help="a few methods on few pictures; fails where AMDM does")
    what.add_argument("--plots", action="store_true", help="the pictures of docs/, from what is in --out")
    add_measuring(parser, "for each method (500; 48 with --sweep and --fast)", None)
    add_rows(parser, 20, float, 5.0, Path("shapes-bench"))
    parser.add_argument("--scale", type=int, default=1, help="a picture's side: 2 = 256 pixels (with --weights for it)")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return the exit code, 1 if the fast run fails."""
    torch.set_num_threads(options.threads)
    pictures = options.pictures or (SWEEP_PICTURES if options.sweep else FAST_PICTURES if options.fast else PICTURES)
    fields = {name: getattr(options, name) for name in ("seed", "batch", "steps", "cfg_scale", "sampler", "scale")}
    # code is not among the conditions of kept verdicts, so the run that guards it keeps none
    folder = None if options.fast else options.out
    bench = Bench.of(options.weights, pictures=pictures, folder=folder, **fields)
    if options.plots:
        from .plots import write_plots

        write_plots(bench, options.out, options.docs)
        return 0
    accuracy = bench.judge.check("judge")
    print(f"The judge is right on fresh drawings: {in_percent(accuracy)}")
    if options.sweep:
        run_sweep(bench, options.sweep, options.out)
    elif options.fast:
        unguided = replace(bench, studio=replace(bench.studio, cfg_scale=1.0))
        measured = {**measure_all(bench, FAST_METHODS), **measure_all(unguided, FAST_UNGUIDED)}
        failures = fast_failures(measured)
        print("\n".join(failures) or bars_table(bars(measured)))
        return int(bool(failures))
    elif options.methods:
        measure_all(bench, options.methods)
    else:
        names = [name for name in ROWS if name not in UNLISTED]
        write_table(bench, measure_all(bench, names), accuracy, options.out)
    return 0
