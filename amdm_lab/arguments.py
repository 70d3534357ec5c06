"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from .bundled import WEIGHTS

DTYPES = ("float32", "float16", "bfloat16")


def add_webui(parser: argparse._ActionsContainer) -> None:
    """Add the address of a running WebUI, and its login."""
    parser.add_argument("--url", default="", help="a running WebUI, started with --api")
    parser.add_argument("--login", default="", help="user:password, if the WebUI has --api-auth")


def add_place(parser: argparse._ActionsContainer) -> None:
    """Add what draws: a WebUI, or a folder of checkpoints without one."""
    add_webui(parser)
    parser.add_argument("--models", type=Path, help="a folder of SD1 checkpoints, to draw without a WebUI")
    parser.add_argument("--device", default="", help="with --models: cpu, cuda or cuda:1 (cuda if there is one)")
    parser.add_argument(
        "--dtype", default="", choices=DTYPES, help="with --models (float16 on a GPU, float32 on the CPU)"
    )


def add_sampling(parser: argparse._ActionsContainer, steps: int, cfg_scale: float, seed: int) -> None:
    """Add how pictures are drawn. Steps and guidance that are not given are None; the help names these defaults."""
    parser.add_argument("--steps", type=int, help=f"sampling steps ({steps})")
    parser.add_argument("--cfg-scale", type=float, help=f"guidance ({cfg_scale:g})")
    parser.add_argument("--sampler", help="as the WebUI names it, or k-diffusion without a WebUI (Euler)")
    parser.add_argument("--schedule", help="as the WebUI names it (automatic)")
    parser.add_argument("--seed", type=int, default=seed, help="of the first picture; the others count up")


def add_measuring(
    parser: argparse._ActionsContainer, pictures: str, default: int | None, weights: Path = WEIGHTS
) -> None:
    """Add what every benchmark on small checkpoints takes. pictures: the help of --pictures."""
    parser.add_argument("--pictures", type=int, default=default, help=pictures)
    parser.add_argument("--seed", type=int, default=1, help="of scenes and noise")
    add_threads(parser, torch.get_num_threads())
    parser.add_argument("--weights", type=Path, default=weights, help="folder of the checkpoints")


def add_rows(
    parser: argparse._ActionsContainer, steps: int, cfg_scale: Callable[[str], object], cfg_default: object, out: Path
) -> None:
    """Add what a benchmark with a row for each method takes."""
    parser.add_argument("--steps", type=int, default=steps, help="sampling steps")
    parser.add_argument("--cfg", dest="cfg_scale", type=cfg_scale, default=cfg_default, help="guidance")
    parser.add_argument("--sampler", default="euler", help="a sampler of k-diffusion")
    parser.add_argument("--batch", type=int, default=50, help="pictures drawn at a time")
    parser.add_argument("--out", type=Path, default=out, help="folder for the measurements")
    add_docs(parser)


def add_threads(parser: argparse._ActionsContainer, default: int) -> None:
    parser.add_argument("--threads", type=int, default=default, help="of torch")


def add_docs(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder for pictures of the documentation")


def names_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Make an argument's type for comma-separated names."""
    names = list(known)

    def names_in(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = next((name for name in chosen if name not in names), None)
        if unknown is not None:
            raise argparse.ArgumentTypeError(f'unknown name "{unknown}"; choose from {", ".join(names)}')
        return chosen

    return names_in
