"""Two checkpoints of yours on your prompts, as one page.

    ... pair --url http://127.0.0.1:7860 --main A --co B --prompts prompts.txt
    ... pair --models FOLDER --main A --co B --prompts prompts.txt
    ... pair --url http://127.0.0.1:7860 --from outputs/txt2img-images/2026-01-01/00001-1.png

Each prompt is drawn by A alone, by B alone, by AMDM with a few settings, and, in a WebUI, by A with B as its refiner.
The page says how far each way moved the picture away from A's own, and for how much time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib_amdm import command_line
from lib_amdm.comodels.file_list import without_hash
from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT

from ..checkpoints import find_file
from ..drawers.places import DTYPES, drawer_at
from ..drawers.webui_api import WebUIDrawer
from ..drawing import Drawer, Order
from ..records import write_text
from .figures import figures, rows
from .from_pictures import read_pictures
from .kept import Pictures
from .page import Found, page, verdict
from .run import draw_all
from .similarity import Clip
from .subjects import Subject, read_subjects
from .ways import Pair, new_pair, usual_changes, ways

PAGE = "index.html"
STEPS, REFINER = 20, 0.5
_COMMON = ("negative_prompt", "sampler", "schedule", "steps", "cfg_scale", "width", "height")


def main(arguments: Sequence[str]) -> int:
    """Draw what is missing, write the page, and print what it found."""
    options = _parser().parse_args(arguments)
    clip = Clip(options.clip) if options.clip else None
    refiners = _refiners(options)
    drawer = drawer_at(options.url, options.login, options.models, options.device, options.dtype)
    pair, subjects = _asked(options, drawer)
    changes = usual_changes(pair.common.get("steps", STEPS)) if options.tries is None else options.tries
    all_ways = ways(pair, changes, refiners, "as it was drawn" if options.pictures else "defaults")
    place = drawer.description()
    kept = draw_all(drawer, pair, all_ways, subjects, Pictures(options.out, f"{options.url or 'standalone'}: {place}"))
    of_subjects = [figures(of_subject, subject, clip) for of_subject, subject in zip(kept, subjects)]
    found = Found(pair, place, subjects, rows(all_ways, of_subjects), of_subjects)
    file = options.out / PAGE
    write_text(file, page(found))
    print("", *verdict(found), f"The page: {file}", sep="\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    head, _, rest = (__doc__ or "").partition("\n")
    parser = command_line.parser(f"{command_line.typed('amdm_lab')} pair", head, epilog=rest)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--url", default="", help="a running WebUI, started with --api")
    place.add_argument("--models", type=Path, help="a folder of SD1 checkpoints, which are drawn without a WebUI")
    parser.add_argument("--login", default="", help="user:password, where the WebUI has --api-auth")
    parser.add_argument("--device", default="", help="with --models: cpu, cuda or cuda:1 (cuda if there is one)")
    parser.add_argument(
        "--dtype", default="", choices=DTYPES, help="with --models (float16 on a GPU, float32 on the CPU)"
    )
    parser.add_argument("--main", help="the main checkpoint")
    parser.add_argument("--co", help='the co-model\'s checkpoint, or "main"')
    parser.add_argument("--prompts", type=Path, help="a prompt on each line, and the co-model's own behind a tab")
    parser.add_argument("--co-prompts", type=Path, help="the co-model's prompts, if they are in a file of their own")
    parser.add_argument(
        "--from",
        dest="pictures",
        type=Path,
        nargs="+",
        metavar="PICTURE",
        help='pictures that the WebUI drew with AMDM, by "compare" for instance: their models, prompts and settings',
    )
    parser.add_argument(
        "--try",
        dest="tries",
        action="append",
        metavar="SETTINGS",
        help='settings to try, such as "gamma=0.7, steps=5"; may be repeated (gamma 0.3 and 0.7, K a quarter of the '
        "steps and all, E 2 and 8, each by itself)",
    )
    parser.add_argument(
        "--refiner",
        type=float,
        action="append",
        metavar="SHARE",
        help=f"from which share of the steps on B takes over ({REFINER} in a WebUI; 0: no refiner); may be repeated",
    )
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a CLIP in transformers' layout; no download")
    parser.add_argument("--out", type=Path, default=Path("amdm-pair"), help="the page's folder")
    parser.add_argument("--seed", type=int, default=1, help="of the first picture; the others count up")
    drawing = parser.add_argument_group("what is drawn", "where a picture of --from does not say it")
    drawing.add_argument("--negative-prompt", help="of both models (none)")
    drawing.add_argument("--sampler", help="in the words of the WebUI, or of k-diffusion without one (Euler)")
    drawing.add_argument("--schedule", help="in the words of the WebUI (automatic)")
    drawing.add_argument("--steps", type=int, help=f"sampling steps ({STEPS})")
    drawing.add_argument("--cfg-scale", type=float, help=f"guidance ({Order.cfg_scale:g})")
    drawing.add_argument("--width", type=int, help=f"in pixels ({Order.width})")
    drawing.add_argument("--height", type=int, help=f"in pixels ({Order.height})")
    return parser


def _asked(options: argparse.Namespace, drawer: Drawer) -> tuple[Pair, list[Subject]]:
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
    co = MAIN_CHECKPOINT if options.co == MAIN_CHECKPOINT else _listed(options.co, titles)
    if co == MAIN_CHECKPOINT and not any(subject.co_prompt for subject in subjects):
        raise AmdmError(
            "With --co main the second model needs prompts of its own; write them in --prompts behind tabs."
        )
    return new_pair(_listed(options.main, titles), co, {"steps": STEPS, **common}), subjects


def _listed(name: str, titles: Sequence[str]) -> str:
    file = find_file(name, titles)
    if file is None:
        listed = ", ".join(map(without_hash, titles)) or "empty"
        raise AmdmError(f'"{name}" is not in the list of checkpoints ({listed}); choose from it.')
    return file


def _refiners(options: argparse.Namespace) -> Sequence[float]:
    if options.refiner is None:
        return [REFINER] if options.url and options.co != MAIN_CHECKPOINT else []
    if not options.url and any(options.refiner):
        raise AmdmError("--refiner needs a WebUI, as there is none without one; name a WebUI with --url.")
    odd = next((share for share in options.refiner if not 0 <= share < 1), None)
    if odd is not None:
        raise AmdmError(f"--refiner must be from 0 to below 1, not {odd:g}; it is a share of the steps.")
    return [share for share in options.refiner if share]


if __name__ == "__main__":
    command_line.run(lambda: main(sys.argv[1:]))
