"""The paper's Table 1 on your files: InteractDiffusion, MIGC, and both together by AMDM, on COCO-MIG.

Draws what is not drawn yet, judges what is not judged yet, and prints the table. After an interruption, the same
command goes on. Nothing is downloaded. docs/evaluate.md says which files are needed, and from where.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lib_amdm.errors import AmdmError

from ..arguments import add_place, add_sampling
from ..checkpoints import listed_file
from ..drawers import drawer_at
from ..drawing import Drawer, Order
from ..records import made, write_text, write_whole
from ..runs import draw_missing
from ..store import Store
from . import detector, segmenter
from .benchmark import Entry, first_of_each_level, read, write
from .build import build
from .judge import judge_all
from .published import ENTRIES, LEVELS
from .recipes import BUILT_IN, INTERACT, MIGC, Recipe, built_in, from_file, wanted
from .report import report

BENCH = "mig_bench.json"
STEPS, CFG_SCALE = 50, 7.5
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
"""The negative prompt of the paper's benchmark script."""
INTERRUPTED = 130
"""The exit code of a command that was interrupted from the keyboard."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, default=Path("coco-mig"), help="the folder of pictures, records and report")
    what = parser.add_argument_group("the benchmark")
    what.add_argument("--bench", type=Path, help="a mig_bench.json of the published form")
    what.add_argument("--annotations", type=Path, help="COCO's instances_val2014.json, to build a benchmark from")
    what.add_argument("--bench-seed", type=int, default=0, help="the seed of the benchmark that is built")
    what.add_argument("--entries", type=int, default=ENTRIES, help="how many entries, a fifth of each level")
    where = parser.add_argument_group("what draws; without one, what is drawn is judged")
    add_place(where)
    where.add_argument("--adapters", type=Path, help="with --models: a folder of adapters (that of the checkpoints)")
    how = parser.add_argument_group("how it draws")
    how.add_argument("--checkpoint", default="", help="an SD1.5 checkpoint, by its name in the list")
    how.add_argument(
        "--interact", default="", help="InteractDiffusion's adapter, by its name in the list (the first named so)"
    )
    how.add_argument("--migc", default="", help="MIGC's adapter, by its name in the list (the first named so)")
    how.add_argument(
        "--methods", default="", help=f"of {', '.join(BUILT_IN)}; separated by commas (all, or none with --settings)"
    )
    how.add_argument(
        "--settings",
        type=Path,
        action="append",
        default=[],
        help="a further method: a file of settings; may be repeated",
    )
    add_sampling(how, STEPS, CFG_SCALE, seed=0)
    how.add_argument("--size", type=int, default=Order.width, help="width and height in pixels")
    how.add_argument(
        "--negative-prompt", default=NEGATIVE_PROMPT, help="that of the paper's benchmark script (%(default)s)"
    )
    who = parser.add_argument_group("what judges; without one, pictures are drawn")
    who.add_argument("--detector", type=Path, help="a folder with a Grounding DINO for transformers")
    who.add_argument("--segmenter", type=Path, help="a folder with a Segment Anything for transformers")
    who.add_argument("--judge-device", default="cpu", help="cpu, cuda or cuda:1")


def run(options: argparse.Namespace) -> int:
    try:
        print(evaluated(options))
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on, with what is in {options.out}.", file=sys.stderr)
        return INTERRUPTED
    return 0


def evaluated(options: argparse.Namespace) -> str:
    """Draw, judge and report: the parts of it that the arguments name what is needed for."""
    entries = entries_of(options)
    store = Store(options.out)
    _check_judges(options)
    if options.url or options.models:
        folders = [options.adapters or options.models] if options.models else []
        drawer = drawer_at(options.url, options.login, options.models, options.device, options.dtype, folders)
        recipes = recipes_to_draw(options, drawer.adapters())
        draw_missing(drawer, store, wanted(entries, recipes, _order(options, drawer)), drawer.description())
    else:
        recipes = recipes_drawn(options.out)
    if options.detector:
        dino = detector.GroundingDino(options.detector, options.judge_device)
        folder = options.segmenter
        masks = segmenter.SegmentAnything(folder, options.judge_device) if folder else segmenter.WholeBox()
        judge_all(store, entries, recipes, dino, masks)
    text, figures = report(store, entries, recipes)
    if not figures:
        return f"{text}Nothing was judged; name the folder of a Grounding DINO with --detector."
    write_text(options.out / "report.md", text)
    write_whole(options.out / "report.json", figures)
    return text


def entries_of(options: argparse.Namespace) -> list[Entry]:
    """Read or build the benchmark that is named, and keep it with the pictures; without one, read the kept one."""
    if options.entries < len(LEVELS):
        raise AmdmError(
            f"--entries is {options.entries}, but there are {len(LEVELS)} levels; raise it to as many or more."
        )
    kept_bench = options.out / BENCH
    if options.bench:
        entries = read(options.bench)
    elif options.annotations:
        entries = build(options.annotations, options.entries, options.bench_seed)
    elif kept_bench.is_file():
        entries = read(kept_bench)
    else:
        raise AmdmError(
            f"There is no benchmark; name the paper's {BENCH} with --bench, or COCO's instances_val2014.json with "
            "--annotations, from which one is built."
        )
    if not kept_bench.is_file():
        made(options.out)
        write(entries, kept_bench)
    elif read(kept_bench) != entries:
        raise AmdmError(f'"{kept_bench}" is another benchmark than the one that is named; choose another --out.')
    return first_of_each_level(entries, options.entries)


def recipes_to_draw(options: argparse.Namespace, listed: list[str]) -> list[Recipe]:
    """Make the recipes that are named, with adapters of the list; without any, all that are built in."""
    adapters = {INTERACT: options.interact, MIGC: options.migc}
    names = options.methods.split(",") if options.methods else ([] if options.settings else list(BUILT_IN))
    recipes = [built_in(name.strip(), listed, adapters) for name in names]
    recipes += [from_file(file) for file in options.settings]
    names = [recipe.name for recipe in recipes]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise AmdmError(
            f'"{twice}" names two methods, and their pictures would have one folder; leave one out or rename it.'
        )
    return recipes


def recipes_drawn(out: Path) -> list[Recipe]:
    """Return the recipes that the folder has pictures of, the built-in ones first."""
    folders = sorted(folder.name for folder in out.iterdir() if folder.is_dir())
    names = [name for name in BUILT_IN if name in folders] + [name for name in folders if name not in BUILT_IN]
    if not names:
        raise AmdmError(
            f'Nothing draws, and "{out}" has no pictures; name a running WebUI with --url, or a folder of '
            "checkpoints with --models."
        )
    return [Recipe(name, BUILT_IN[name][0] if name in BUILT_IN else name, {}) for name in names]


def _order(options: argparse.Namespace, drawer: Drawer) -> Order:
    """Return what all orders have in common, with the listed file of the checkpoint.

    A WebUI draws with another checkpoint if it does not know the name.
    """
    return Order(
        listed_file(options.checkpoint, drawer.checkpoints(), "--checkpoint"),
        prompt="",
        seed=options.seed,
        negative_prompt=options.negative_prompt,
        sampler=options.sampler or "",
        schedule=options.schedule or "",
        steps=STEPS if options.steps is None else options.steps,
        cfg_scale=CFG_SCALE if options.cfg_scale is None else options.cfg_scale,
        width=options.size,
        height=options.size,
    )


def _check_judges(options: argparse.Namespace) -> None:
    """AmdmError if the judges cannot be loaded, before hours are spent on drawing."""
    if options.detector:
        from ..devices import device_of

        device_of(options.judge_device, "--judge-device")
        detector.check(options.detector, detector.DINO, detector.DETECTOR)
    if options.segmenter:
        detector.check(options.segmenter, segmenter.SAM, segmenter.SEGMENTER)
