"""The moves of models to a card and back: `AMDM_A1111_DIR=... python -m tests.webui.moves --checkpoints FOLDER`.

Starts each named WebUI behind the rehearsed card in its ways to use one, draws pictures with two co-models, and prints
a table in Markdown. The first picture of each kind is not counted: it loads.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from .hosts import HOSTS, Host
from .probed import OPTIONS, Probed, settings, slot
from .rehearsal import Card, Model
from .webui_server import WebUI

REPOSITORY = Path(__file__).resolve().parents[2]
SAMPLERS = ("Euler", "DDIM")
EVALUATIONS = 3
COLUMNS = (("unet", "main"), ("text", "main"), ("unet", "co"), ("text", "co"))


def moved(models: list[Model]) -> str:
    """Each model's moves, up / down; those that lie on the card and stay there have none."""
    return ", ".join(sorted(f"{model.up} / {model.down}" for model in models))


def rows(probed: Probed, way: str) -> list[str]:
    card, found = Card(probed.server), []
    for sampler in SAMPLERS:
        for texts in ("kept", "new"):

            def request(number: int, texts: str = texts, sampler: str = sampler) -> dict[str, Any]:
                text = f"a circle, {number} {sampler}" if texts == "new" else "a circle"
                ours = settings(slot("beta", prompt=f"blue, {text}"), slot("gamma"), steps=EVALUATIONS)
                return {"amdm": ours, "prompt": text, "sampler_name": sampler}

            probed.unload()
            for number in range(2):
                card.script()
                probed.draw(**request(number))
            report = card.report()
            counts = [moved(card.models(kind, of)) for kind, of in COLUMNS]
            copied = [f"{report['copied'].get(direction, 0) / 1e6:.0f}" for direction in ("up", "down")]
            found.append(f"| {' | '.join([way, sampler, texts, *counts, *copied])} |")
    return found


def measure(host: Host, checkpoints: Path, ways: list[str]) -> None:
    names = ("main UNet", "main text encoder", "co-models' UNets", "their text encoders", "MB up", "MB down")
    print(f"| {' | '.join([host.name, 'sampler', 'texts', *names])} |\n|{'---|' * 9}")
    for way in ways or [*host.card_ways]:
        with tempfile.TemporaryDirectory() as folder:
            server = WebUI(
                host,
                Path(folder),
                checkpoints=checkpoints,
                extension=REPOSITORY,
                probe=True,
                options=OPTIONS,
                card=host.card_ways[way],
            )
            with server:
                print("\n".join(rows(Probed(server), way)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder with the tests' checkpoints")
    parser.add_argument("--ways", nargs="*", default=[], help="names in tests/webui/hosts.py; all of them by default")
    arguments = parser.parse_args()
    for host in HOSTS.values():
        if host.directory() is not None:
            measure(host, arguments.checkpoints, arguments.ways)


if __name__ == "__main__":
    main()
