"""The paper's Table 1 on your files: InteractDiffusion, MIGC, and both together by AMDM, on COCO-MIG.

Draws what is not drawn yet, judges what is not judged yet, and prints the table; interrupted, the same command goes on.
Nothing is downloaded. docs/evaluate.md says which files are needed, and from where.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lib_amdm import command_line
from lib_amdm.comodels.file_list import without_hash
from lib_amdm.errors import AmdmError

from ..drawers.places import DTYPES, drawer_at
from ..drawing import Drawer
from ..records import made, write_text, write_whole
from .benchmark import Entry, first_of_each_level, read, write
from .build import build
from .methods import BUILT_IN, INTERACT, MIGC, Method, built_in, from_file
from .published import ENTRIES, LEVELS
from .report import report
from .runner import Drawing, Folder, draw_all

BENCH = "mig_bench.json"
NEGATIVE_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
"""The negative prompt of the paper's benchmark script."""
INTERRUPTED = 130
"""The exit code of a command that was interrupted from the keyboard."""


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        print(evaluated(chosen))
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on, with what is in {chosen.out}.", file=sys.stderr)
        return INTERRUPTED
    return 0


def evaluated(chosen: argparse.Namespace) -> str:
    """Draw, judge and report, as far as the arguments name what is needed."""
    entries = entries_of(chosen)
    folder = Folder(chosen.out)
    _check_judges(chosen)
    drawer = drawer_of(chosen)
    methods = methods_to_draw(chosen, drawer.adapters()) if drawer else methods_drawn(chosen)
    if drawer:
        drawing = Drawing(
            _checkpoint(chosen, drawer),
            chosen.negative_prompt,
            chosen.sampler,
            chosen.schedule,
            chosen.steps,
            chosen.cfg_scale,
            chosen.size,
            chosen.seed,
        )
        draw_all(folder, drawer, drawing, entries, methods)
    if chosen.detector:
        _judge(chosen, folder, entries, methods)
    text, figures = report(folder, entries, methods)
    if not figures:
        return f"{text}Nothing was judged; name the folder of a Grounding DINO with --detector."
    write_text(chosen.out / "report.md", text)
    write_whole(chosen.out / "report.json", figures)
    return text


def entries_of(chosen: argparse.Namespace) -> list[Entry]:
    """Read the benchmark that is named, or build it, and keep it beside the pictures; else read what is kept there."""
    if chosen.entries < len(LEVELS):
        raise AmdmError(
            f"--entries is {chosen.entries}, but there are {len(LEVELS)} levels; raise it to as many or more."
        )
    kept = chosen.out / BENCH
    if chosen.bench:
        entries = read(chosen.bench)
    elif chosen.annotations:
        entries = build(chosen.annotations, chosen.entries, chosen.bench_seed)
    elif kept.is_file():
        entries = read(kept)
    else:
        raise AmdmError(
            f"There is no benchmark; name the paper's {BENCH} with --bench, or COCO's instances_val2014.json with "
            "--annotations, from which one is built."
        )
    if not kept.is_file():
        made(chosen.out)
        write(entries, kept)
    elif read(kept) != entries:
        raise AmdmError(f'"{kept}" is another benchmark than the one that is named; choose another --out.')
    return first_of_each_level(entries, chosen.entries)


def drawer_of(chosen: argparse.Namespace) -> Drawer | None:
    """Make what draws: a WebUI's API or the standalone host; None where neither is named."""
    if not (chosen.url or chosen.models):
        return None
    folders = [chosen.adapters or chosen.models] if chosen.models else []
    return drawer_at(chosen.url, chosen.login, chosen.models, chosen.device, chosen.dtype, folders)


def methods_to_draw(chosen: argparse.Namespace, listed: list[str]) -> list[Method]:
    """Make the methods that are named, with adapters of the list; without any, all that are built in."""
    given = {INTERACT: chosen.interact, MIGC: chosen.migc}
    names = chosen.methods.split(",") if chosen.methods else ([] if chosen.settings else list(BUILT_IN))
    methods = [built_in(name.strip(), listed, given) for name in names]
    methods += [from_file(file) for file in chosen.settings]
    found = [method.name for method in methods]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice:
        raise AmdmError(
            f'"{twice}" names two methods, whose pictures would have one folder; leave one out or rename it.'
        )
    return methods


def methods_drawn(chosen: argparse.Namespace) -> list[Method]:
    """Return the methods that the folder has pictures of, the built-in ones first."""
    folders = sorted(folder.name for folder in chosen.out.iterdir() if folder.is_dir())
    names = [name for name in BUILT_IN if name in folders] + [name for name in folders if name not in BUILT_IN]
    if not names:
        raise AmdmError(
            f'Nothing draws, and "{chosen.out}" has no pictures; name a running WebUI with --url, or a folder of '
            "checkpoints with --models."
        )
    return [Method(name, BUILT_IN[name][0] if name in BUILT_IN else name, {}) for name in names]


def _checkpoint(chosen: argparse.Namespace, drawer: Drawer) -> str:
    """Return the listed file of the checkpoint that is named: a WebUI draws with another where it knows none."""
    from ..checkpoints import find_file

    titles = drawer.checkpoints()
    found = find_file(chosen.checkpoint, titles)
    if found is None:
        asked = f'"{chosen.checkpoint}" is not in the list' if chosen.checkpoint else "No checkpoint is named"
        listed = ", ".join(map(without_hash, titles)) or "none is there"
        raise AmdmError(f"{asked}; choose one with --checkpoint ({listed}).")
    return found


def _check_judges(chosen: argparse.Namespace) -> None:
    """AmdmError where the judges cannot be loaded, before hours are spent on drawing."""
    from . import detector, segmenter

    if chosen.detector:
        from ..devices import device_of

        device_of(chosen.judge_device, "--judge-device")
    for folder, kind, argument in (
        (chosen.detector, detector.DINO, detector.DETECTOR),
        (chosen.segmenter, segmenter.SAM, segmenter.SEGMENTER),
    ):
        if folder:
            detector.check(folder, kind, argument)


def _judge(chosen: argparse.Namespace, folder: Folder, entries: list[Entry], methods: list[Method]) -> None:
    from .detector import GroundingDino
    from .judge import judge_all
    from .segmenter import SegmentAnything, WholeBox

    detector = GroundingDino(chosen.detector, chosen.judge_device)
    segmenter = SegmentAnything(chosen.segmenter, chosen.judge_device) if chosen.segmenter else WholeBox()
    judge_all(folder, entries, methods, detector, segmenter)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(f"{command_line.typed('amdm_lab')} coco-mig", __doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("coco-mig"), help="the folder of pictures, records and report")
    what = parser.add_argument_group("the benchmark")
    what.add_argument("--bench", type=Path, help="a mig_bench.json of the published form")
    what.add_argument("--annotations", type=Path, help="COCO's instances_val2014.json, to build a benchmark from")
    what.add_argument("--bench-seed", type=int, default=0, help="the seed of the benchmark that is built")
    what.add_argument("--entries", type=int, default=ENTRIES, help="how many entries, a fifth of each level")
    where = parser.add_argument_group("what draws; without one, what is drawn is judged")
    where.add_argument("--url", default="", help="a running WebUI's address, started with --api")
    where.add_argument("--login", default="", help="user:password, where the WebUI asks for one")
    where.add_argument("--models", type=Path, help="a folder of checkpoints, to draw without a WebUI")
    where.add_argument("--adapters", type=Path, help="a folder of adapters for it; else that of the checkpoints")
    where.add_argument("--device", default="cpu", help="for it: cpu, cuda or cuda:1")
    where.add_argument("--dtype", choices=DTYPES, default="float32", help="for it")
    how = parser.add_argument_group("how it draws")
    how.add_argument("--checkpoint", default="", help="an SD1.5 checkpoint, by its name in the list")
    how.add_argument(
        "--interact", default="", help="InteractDiffusion's adapter, by its name in the list (the first named so)"
    )
    how.add_argument("--migc", default="", help="MIGC's adapter, by its name in the list (the first named so)")
    how.add_argument(
        "--methods", default="", help=f"of {', '.join(BUILT_IN)}; separated by commas (all, but none beside --settings)"
    )
    how.add_argument(
        "--settings",
        type=Path,
        action="append",
        default=[],
        help="a further method: a file of settings; may be repeated",
    )
    how.add_argument("--steps", type=int, default=50, help="sampling steps")
    how.add_argument("--cfg-scale", type=float, default=7.5, help="guidance")
    how.add_argument("--sampler", default="", help="in the words of what draws (Euler, which is DDIM with eta 0)")
    how.add_argument("--schedule", default="", help="in its words (automatic)")
    how.add_argument("--size", type=int, default=512, help="width and height in pixels")
    how.add_argument("--seed", type=int, default=0, help="of the first entry; each further one has the next")
    how.add_argument(
        "--negative-prompt", default=NEGATIVE_PROMPT, help="that of the paper's benchmark script (%(default)s)"
    )
    who = parser.add_argument_group("what judges; without one, pictures are drawn")
    who.add_argument("--detector", type=Path, help="a folder with a Grounding DINO for transformers")
    who.add_argument("--segmenter", type=Path, help="a folder with a Segment Anything for transformers")
    who.add_argument("--judge-device", default="cpu", help="cpu, cuda or cuda:1")
    return parser


if __name__ == "__main__":
    command_line.run(lambda: main(sys.argv[1:]))
