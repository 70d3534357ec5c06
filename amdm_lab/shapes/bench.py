"""The benchmark: does AMDM draw what two checkpoints know? `python -m amdm_lab shapes`

    python -m amdm_lab shapes                      # all methods, 500 pictures each, and the table
    python -m amdm_lab shapes --methods amdm,all   # these alone, without the table: for several processes
    python -m amdm_lab shapes --sweep              # grids over AMDM's settings, on other scenes and seeds
    python -m amdm_lab shapes --fast               # a few methods on few pictures; fails where AMDM does
    python -m amdm_lab shapes --plots              # the pictures of docs/, from what the others left in --out

Captions, scenes and seeds are fixed by --seed and the same for all methods. What the judge saw is kept in the output
folder after each batch, so a run that was stopped goes on, and one with more pictures adds to what is there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lib_amdm import command_line
from lib_amdm.errors import AmdmError

from ..bundled import WEIGHTS
from .adapter_methods import ADAPTER_METHODS
from .judge import Judge
from .measuring import Bench, Measured, machine
from .methods import FLOW_METHODS, METHODS
from .projected_methods import PROJECTED_METHODS
from .scores import QUANTITIES, compared, counts
from .sweep import GRIDS, markdown, sweep, tables

OUT = Path("shapes-bench")
DOCS = Path("docs")
PICTURES, SWEEP_PICTURES, FAST_PICTURES = 500, 48, 48
JUDGE_BAR = 0.99

UNLISTED = {**PROJECTED_METHODS, **FLOW_METHODS}
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
    """A bar for a method against the best of the others: a ratio, or a difference of shares."""

    title: str
    method: str
    others: Sequence[str]
    quantity: str
    kind: str
    least: float


BARS = (
    Bar("AMDM / better single checkpoint, both right", "amdm", SINGLE, "both", "ratio", 3.0),
    Bar("AMDM / average in all steps, both right", "amdm", ("average",), "both", "ratio", 1.3),
    Bar("AMDM - `all`, both right", "amdm", ("all",), "both", "difference", -0.1),
    Bar("three models / best with two, all three right", "amdm-three", TWO_MODELS, "all three", "ratio", 2.0),
)


def table(found: dict[str, Measured], seconds: Sequence[float]) -> str:
    """Make a row for each method: shares in % with 95 % intervals, evaluations and seconds of one picture."""
    head = ["method", "how", *QUANTITIES, "evaluations: main + co", "seconds"]
    lines = []
    for (name, measured), each in zip(found.items(), seconds):
        method, shares = ROWS[name], measured.shares
        taken = f"{measured.evaluations} + {measured.co_evaluations}"
        lines.append([method.label, method.detail, *(str(shares[q]) for q in QUANTITIES), taken, f"{each:.3f}"])
    return markdown(head, lines)


def bars(found: dict[str, Measured]) -> list[dict[str, Any]]:
    """Compare with the bars that these methods allow: value, 95 % interval of a paired bootstrap, and the bar."""
    rows = []
    for bar in BARS:
        others = [name for name in bar.others if name in found]
        if bar.method in found and len(others) == len(bar.others):
            best = max(others, key=lambda name: found[name].shares[bar.quantity].value)
            value, low, high = comparison(found, bar.method, best, bar.quantity)[bar.kind]
            row = {"title": bar.title, "against": best, "kind": bar.kind, "value": value, "low": low, "high": high}
            rows.append({**row, "least": bar.least, "reached": value >= bar.least})
    return rows


def comparison(
    found: dict[str, Measured], one: str, other: str, quantity: str
) -> dict[str, tuple[float, float, float]]:
    """Compare the shares of two methods; see `compared`."""
    first, second = (counts(found[name].scenes, found[name].seen)[quantity] for name in (one, other))
    return compared(first, second)


def bars_table(rows: Sequence[dict[str, Any]]) -> str:
    def number(row: dict[str, Any], name: str) -> str:
        return f"{row[name]:.2f}" if row["kind"] == "ratio" else f"{100 * row[name]:+.1f} points"

    head = ["what", "against", "found", "95 % interval", "bar", "reached"]
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
    return markdown(head, lines)


def conditions(bench: Bench, accuracy: dict[str, float]) -> str:
    """Describe the conditions of the figures in one paragraph."""
    studio = bench.studio
    right = ", ".join(f"{name} {100 * share:.2f} %" for name, share in accuracy.items())
    objects = sum(len(scene.things) for scene in bench.scenes())
    return (
        f"{bench.pictures} pictures and {objects} objects for each method, seed {bench.seed}, {studio.sampler}, "
        f"{studio.steps} steps, CFG {studio.cfg_scale:g}. The judge is right on fresh drawings: {right}. Shares in %, "
        "with 95 % Wilson intervals for objects that are correlated within their picture (cluster-robust); background "
        "is by picture, all else by object. An evaluation is one guided prediction of a picture. Seconds for one "
        f"picture, decoding included, methods in turns in one process, batches of 16: {machine()}."
    )


def measure_all(bench: Bench, names: Sequence[str]) -> dict[str, Measured]:
    found = {}
    for name in names:
        found[name] = bench.run(name, ROWS[name])
        print(f"{name}: both right {found[name].shares['both']}", flush=True)
    return found


def write_table(bench: Bench, found: dict[str, Measured], accuracy: dict[str, float], out: Path) -> None:
    """Write table.md for people, and table.json for plots."""
    seconds = bench.seconds([ROWS[name] for name in found])
    reached = bars(found)
    text = "\n\n".join([conditions(bench, accuracy), table(found, seconds), bars_table(reached)]) + "\n"
    rows = {
        name: {
            "label": ROWS[name].label,
            "detail": ROWS[name].detail,
            **{quantity: share.to_dict() for quantity, share in measured.shares.items()},
            "evaluations": measured.evaluations,
            "co_evaluations": measured.co_evaluations,
            "seconds": round(each, 4),
        }
        for (name, measured), each in zip(found.items(), seconds)
    }
    body = {"conditions": {**bench.conditions(), "pictures": bench.pictures, "machine": machine(), "judge": accuracy}}
    write(out / "table.json", json.dumps({**body, "methods": rows, "bars": reached}, indent=1) + "\n")
    write(out / "table.md", text)
    print(f"\n{text}")


def run_sweep(bench: Bench, names: list[str], out: Path) -> None:
    """Add the grids to sweep.json and sweep.md.

    The scenes and seeds are others than the table's: what is chosen on them is not measured on them.
    """
    apart = replace(bench, seed=bench.seed + 1, folder=out / "sweep")
    file = out / "sweep.json"
    found = sweep(apart, names)
    grids = {**(json.loads(file.read_text()) if file.is_file() else {}), **found}
    write(file, json.dumps(grids) + "\n")
    write(out / "sweep.md", tables(grids, bench.pictures))
    print(tables(found, bench.pictures))


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def fast_failures(found: dict[str, Measured]) -> list[str]:
    """List what is wrong with AMDM.

    The lower end of an interval must pass each bar, so chance does not hide what is broken; and the bars are so far
    below what AMDM reaches that chance breaks nothing.
    """
    wanted = [("amdm", name, "ratio", FAST_RATIO, f"{FAST_RATIO:g} times") for name in SINGLE]
    wanted.append(("amdm-unguided", "average", "difference", 0.0, "more than"))
    failures = []
    for ours, name, kind, bar, much in wanted:
        if not comparison(found, ours, name, "both")[kind][1] > bar:
            amdm, other = (found[each].shares["both"] for each in (ours, name))
            failures.append(f"AMDM has both right in {amdm} %, which is not surely {much} what {name} has, {other} %.")
    return failures


def judged_well(judge: Judge) -> dict[str, float]:
    """Return the judge's accuracy on fresh drawings; AmdmError where it is too low."""
    accuracy = judge.accuracy()
    print("The judge is right on fresh drawings: " + ", ".join(f"{k} {100 * v:.2f} %" for k, v in accuracy.items()))
    worst = min(accuracy, key=lambda name: accuracy[name])
    if accuracy[worst] < JUDGE_BAR:
        raise AmdmError(
            f"The judge tells {worst} right in {accuracy[worst]:.1%} of fresh drawings, which must be {JUDGE_BAR:.0%} "
            "or more; train it with `python -m amdm_lab train judge`."
        )
    return accuracy


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return the exit code, 1 where the fast run fails."""
    chosen = parsed(arguments)
    torch.set_num_threads(chosen.threads)
    pictures = chosen.pictures or (SWEEP_PICTURES if chosen.sweep else FAST_PICTURES if chosen.fast else PICTURES)
    fields = {name: getattr(chosen, name) for name in ("seed", "batch", "steps", "cfg_scale", "sampler", "scale")}
    # code is not among the conditions of what was kept, so the run that guards it keeps nothing
    folder = None if chosen.fast else chosen.out
    bench = Bench.of(chosen.weights, pictures=pictures, folder=folder, **fields)
    if chosen.plots:
        from .plots import write_plots

        write_plots(bench, chosen.out, chosen.docs)
        return 0
    accuracy = judged_well(bench.judge)
    if chosen.sweep:
        run_sweep(bench, chosen.sweep, chosen.out)
    elif chosen.fast:
        unguided = replace(bench, studio=replace(bench.studio, cfg_scale=1.0))
        found = {**measure_all(bench, FAST_METHODS), **measure_all(unguided, FAST_UNGUIDED)}
        failures = fast_failures(found)
        print("\n".join(failures) or bars_table(bars(found)))
        return int(bool(failures))
    elif chosen.methods:
        measure_all(bench, chosen.methods)
    else:
        names = [name for name in ROWS if name not in UNLISTED]
        write_table(bench, measure_all(bench, names), accuracy, chosen.out)
    return 0


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser(command_line.typed("amdm_lab shapes"), __doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--methods", type=names_of(ROWS), help=f"of {', '.join(ROWS)}; separated by commas")
    what.add_argument(
        "--sweep", type=names_of(GRIDS), nargs="?", const=list(GRIDS), help=f"all, or of {', '.join(GRIDS)}"
    )
    what.add_argument("--fast", action="store_true", help="a few methods on few pictures; fails where AMDM does")
    what.add_argument("--plots", action="store_true", help="the pictures of docs/, from what is in --out")
    parser.add_argument("--pictures", type=int, help="for each method (500; 48 with --sweep and --fast)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps")
    parser.add_argument("--cfg", dest="cfg_scale", type=float, default=5.0, help="guidance")
    parser.add_argument("--sampler", default="euler", help="a sampler of k-diffusion")
    parser.add_argument("--scale", type=int, default=1, help="a picture's side: 2 = 256 pixels (with --weights for it)")
    parser.add_argument("--seed", type=int, default=1, help="of scenes and noise")
    parser.add_argument("--batch", type=int, default=50, help="pictures drawn at a time")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for what is measured")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder for --plots")
    return parser.parse_args(arguments)


def names_of(known: dict[str, Any]) -> Any:
    """Make argparse's type for comma-separated names."""

    def names(given: str) -> list[str]:
        chosen = given.split(",")
        unknown = [name for name in chosen if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f'"{unknown[0]}" is none of {", ".join(known)}')
        return chosen

    return names
