"""Evaluations, memory and waiting on a machine with CUDA.

    gpu                                       # SD1.5 and SDXL, random weights in float16; without a WebUI
    gpu --folder WEBUI/models/Stable-diffusion --url http://127.0.0.1:7860     # SD1.5 through its API, too
    gpu --parts webui --url http://127.0.0.1:7860 --main A --co B --co C       # checkpoints of your own
    gpu --device cpu --size tiny              # everything but CUDA's own counters, on any machine

Prints a table in Markdown, with the card's name, to paste into docs/measurements/mixed-step.md. Nothing is downloaded.
Checkpoints of random weights, 2.1 GB each, are written to --folder and kept; without it they are deleted after the run.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from lib_amdm.errors import AmdmError

from ..arguments import add_webui
from ..checkpoints import listed_file
from ..devices import device_of, no_cuda
from ..drawers.webui_api import WebUIDrawer
from .table import Measurement, table

PARTS = ("loop", "standalone", "webui")
KINDS = ("sd15", "sdxl")
MOST = 3
_SD1_ALONE = "Whole pictures without a WebUI are of SD1.5 alone, as nothing else runs there."
_SAMPLING = "20 steps of Euler, 10 of them mixed, 4 evaluations of each co-model, guidance in one batch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="of the models")
    parser.add_argument("--models", nargs="+", choices=KINDS, help="of the sampler alone (both)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what is measured (all; webui with --url)")
    parser.add_argument("--co-models", type=int, default=MOST, help="at most so many")
    parser.add_argument(
        "--folder", type=Path, help="for the checkpoints of random weights; a WebUI's own for --url (a temporary one)"
    )
    add_webui(parser)
    parser.add_argument("--main", help="the main checkpoint in the WebUI")
    parser.add_argument("--co", action="append", default=[], help="a co-model's checkpoint there; up to three times")
    parser.add_argument("--pixels", type=int, default=512, help="width and height in the WebUI")


def run(options: argparse.Namespace) -> int:
    """Measure, and print the table; return 1 where something ended it early."""
    device, parts = _device(options.device), _parts(options)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    rows: list[Measurement] = []
    ended = ""
    with tempfile.TemporaryDirectory(prefix="amdm-gpu-") as temporary:
        try:
            for row in _measure(options, parts, device, dtype, options.folder or Path(temporary)):
                rows.append(row)
                _say(" | ".join(row.cells().values()))
        except torch.cuda.OutOfMemoryError:
            ended = "The GPU's memory is full; what was measured before that stands in the table."
        except AmdmError as error:
            ended = str(error)
    if rows:
        print(f"{_machine(device)}, {str(dtype).removeprefix('torch.')}; {_SAMPLING}.\n\n{table(rows)}")
        if "standalone" in parts:
            print(f"\n{_SD1_ALONE}")
    if ended:
        _say(ended)
    return 1 if ended else 0


def _parts(options: argparse.Namespace) -> Sequence[str]:
    """Return what is measured; AmdmError if something for it is not named."""
    parts: Sequence[str] = options.parts or [*PARTS[:2], *(PARTS[2:] if options.url else ())]
    if not 1 <= options.co_models <= MOST:
        raise AmdmError(f"--co-models must be from 1 to {MOST}, not {options.co_models}.")
    if "webui" in parts and not options.url:
        raise AmdmError("The part webui needs a running WebUI; name it with --url.")
    if bool(options.main) != bool(options.co):
        raise AmdmError("--main and --co belong together: name a main checkpoint and one to three co-models.")
    if "webui" in parts and not (options.main or options.folder):
        raise AmdmError(
            "A WebUI needs checkpoints: name its own with --main and --co, or have some of random weights written into "
            "its folder of checkpoints with --folder."
        )
    return parts


def _measure(
    options: argparse.Namespace, parts: Sequence[str], device: torch.device, dtype: torch.dtype, folder: Path
) -> Iterator[Measurement]:
    """Yield the rows of each part."""
    tiny = options.size == "tiny"
    names: Sequence[str] = []
    if "standalone" in parts or ("webui" in parts and not options.main):
        from . import random_checkpoints

        files = random_checkpoints.write(folder, 1 + options.co_models, device, tiny, _say)
        names = [file.name for file in files]
        _empty_cache(device)
    drawer = WebUIDrawer(options.url, options.login)
    # an unlisted name is an error before anything is measured
    listed = _listed(options, drawer, names) if "webui" in parts else []
    if "loop" in parts:
        from . import loop

        for kind in options.models or KINDS:
            _say(f"making {kind}")
            yield from loop.rows(kind, options.co_models, device, dtype, tiny)
            _empty_cache(device)
    if "standalone" in parts:
        from . import on_standalone

        yield from on_standalone.rows(folder, names, device, dtype, tiny)
        _empty_cache(device)
    if listed:
        from . import on_webui

        yield from on_webui.rows(drawer, listed, options.pixels)


def _listed(options: argparse.Namespace, drawer: WebUIDrawer, written: Iterable[str]) -> list[str]:
    """Return the files of the checkpoints to draw with, as the WebUI lists them, the main one first."""
    wanted = [options.main, *options.co[:MOST]] if options.main else list(written)
    drawer.request("/sdapi/v1/refresh-checkpoints", {})
    titles = drawer.checkpoints()
    return [listed_file(name, titles, "--main and --co, or have some written with --folder") for name in wanted]


def _device(name: str) -> torch.device:
    if name.partition(":")[0] == "cuda" and not torch.cuda.is_available():
        raise AmdmError(f"{no_cuda()}, or see with --device cpu --size tiny that all but CUDA's own counters works.")
    device = device_of(name)
    if device.type not in ("cuda", "cpu"):
        raise AmdmError(f'--device "{name}" cannot be measured; choose cuda, cuda:1 or cpu.')
    # a tensor's device has its number
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _machine(device: torch.device) -> str:
    python = f"torch {torch.__version__}, Python {platform.python_version()}"
    if device.type != "cuda":
        return f"The CPU, {python}"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name} ({properties.total_memory / 1e9:.0f} GB), CUDA {torch.version.cuda}, {python}"


def _empty_cache(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
