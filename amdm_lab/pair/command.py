"""Two checkpoints of yours on your prompts, as one page.

    pair --url http://127.0.0.1:7860 --main A --co B --prompts prompts.txt
    pair --models FOLDER --main A --co B --prompts prompts.txt
    pair --url http://127.0.0.1:7860 --from outputs/txt2img-images/2026-01-01/00001-1.png

Each prompt is drawn by A alone, by B alone, by AMDM with a few settings, and, in a WebUI, by A with B as its refiner.
The page shows how far each way moved the picture from A's own, and how much time it took.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT

from ..arguments import add_place, add_sampling
from ..checkpoints import listed_file
from ..drawers import drawer_at
from ..drawers.webui_api import WebUIDrawer
from ..drawing import Drawer, Order
from ..records import made, write_text
from ..runs import draw_missing
from ..store import Store
from .figures import figures, summaries
from .from_pictures import read_pictures
from .page import Comparison, page, verdict
from .similarity import Clip
from .subjects import Subject, read_subjects
from .ways import PICTURES, Pair, new_pair, usual_changes, wanted, ways

PAGE = "index.html"
STEPS, REFINER = 20, 0.5
_COMMON = ("negative_prompt", "sampler", "schedule", "steps", "cfg_scale", "width", "height")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("--main", help="the main checkpoint")
    parser.add_argument("--co", help='the co-model\'s checkpoint, or "main"')
    parser.add_argument("--prompts", type=Path, help="a prompt in each line; after a tab the co-model's own")
    parser.add_argument("--co-prompts", type=Path, help="the co-model's prompts, if they are in a separate file")
    parser.add_argument(
        "--from",
        dest="pictures",
        type=Path,
        nargs="+",
        metavar="PICTURE",
        help='pictures that the WebUI drew with AMDM, for instance by "compare": their models, prompts and settings',
    )
    parser.add_argument(
        "--try",
        dest="tries",
        action="append",
        metavar="SETTINGS",
        help='settings to try, such as "gamma=0.7, steps=5", or "eta of co-model 1=0.3" for the co-model alone; may be '
        "repeated (gamma 0.3 and 0.7, K a quarter of the steps and all, E 2 and 8, each by itself)",
    )
    parser.add_argument(
        "--refiner",
        type=float,
        action="append",
        metavar="SHARE",
        help=f"the share of the steps after which B takes over ({REFINER} in a WebUI; 0: no refiner); may be repeated",
    )
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP in transformers' layout; no download")
    parser.add_argument("--out", type=Path, default=Path("amdm-pair"), help="the page's folder")
    drawing = parser.add_argument_group("what is drawn", "where a picture of --from does not say it")
    add_sampling(drawing, STEPS, Order.cfg_scale, seed=1)
    drawing.add_argument("--negative-prompt", help="of both models (none)")
    drawing.add_argument("--width", type=int, help=f"in pixels ({Order.width})")
    drawing.add_argument("--height", type=int, help=f"in pixels ({Order.height})")


def run(options: argparse.Namespace) -> None:
    """Draw what is missing, write the page, and print what it found."""
    if bool(options.url) == bool(options.models):
        raise AmdmError("Name what draws: a WebUI with --url, or a folder of checkpoints with --models.")
    clip = Clip(options.clip) if options.clip else None
    refiners = _refiners(options)
    drawer = drawer_at(options.url, options.login, options.models, options.device, options.dtype)
    pair, subjects = _pair(options, drawer)
    changes = usual_changes(pair.common.get("steps", STEPS)) if options.tries is None else options.tries
    all_ways = ways(pair, changes, refiners, "as it was drawn" if options.pictures else "defaults")
    description = drawer.description()
    place = f"{options.url or 'standalone'}: {description}"
    pictures = wanted(pair, all_ways, subjects, place)
    store = Store(options.out)
    made(options.out / PICTURES)
    records = dict(zip(pictures, draw_missing(drawer, store, list(pictures.values()), place, warm_up=True)))
    of_subjects = []
    for subject in subjects:
        keys = [(way.caption, subject) for way in all_ways]
        files = [store.picture(pictures[key].name) for key in keys]
        of_subjects.append(figures(files, [records[key] for key in keys], subject, clip))
    comparison = Comparison(pair, description, subjects, summaries(all_ways, of_subjects), of_subjects)
    file = options.out / PAGE
    write_text(file, page(comparison))
    print("", *verdict(comparison), f"The page: {file}", sep="\n")


def _pair(options: argparse.Namespace, drawer: Drawer) -> tuple[Pair, list[Subject]]:
    """Return the pair and its subjects, from pictures or from names and prompts."""
    common: dict[str, Any] = {name: getattr(options, name) for name in _COMMON if getattr(options, name) is not None}
    if options.pictures:
        if not isinstance(drawer, WebUIDrawer):
            raise AmdmError("--from needs the WebUI that drew the picture, to read its infotext; name it with --url.")
        if options.main or options.co or options.prompts or options.co_prompts:
            raise AmdmError("--from takes models and prompts out of a picture; leave out --main, --co and --prompts.")
        pair, subjects = read_pictures(drawer, options.pictures)
        return Pair(pair.main, pair.co, pair.settings, {**pair.common, **common}), subjects
    if not (options.main and options.co and options.prompts):
        raise AmdmError("Name two checkpoints and a file of prompts, with --main, --co and --prompts, or use --from.")
    subjects = read_subjects(options.prompts, options.co_prompts, options.seed)
    titles = drawer.checkpoints()
    co = MAIN_CHECKPOINT if options.co == MAIN_CHECKPOINT else listed_file(options.co, titles, "--co")
    if co == MAIN_CHECKPOINT and not any(subject.co_prompt for subject in subjects):
        raise AmdmError("With --co main the second model needs its own prompts; write them into --prompts behind tabs.")
    return new_pair(listed_file(options.main, titles, "--main"), co, {"steps": STEPS, **common}), subjects


def _refiners(options: argparse.Namespace) -> Sequence[float]:
    if options.refiner is None:
        return [REFINER] if options.url and options.co != MAIN_CHECKPOINT else []
    if not options.url and any(options.refiner):
        raise AmdmError("--refiner needs a WebUI, as there is none without one; name a WebUI with --url.")
    odd = next((share for share in options.refiner if not 0 <= share < 1), None)
    if odd is not None:
        raise AmdmError(f"--refiner must be from 0 to below 1, not {odd:g}; it is a share of the steps.")
    return [share for share in options.refiner if share]
