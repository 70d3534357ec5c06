"""The time that the extension adds to the WebUI's start: `python -m tests.webui.startup --checkpoints FOLDER`.

Starts the WebUI of AMDM_A1111_DIR with its page, in turn with the extension and without, and compares the parts of the
WebUI's own start-up profile that an extension can add to. The first start of each kind is not counted: it compiles.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from .hosts import HOSTS
from .webui_server import WebUI

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("load scripts", "scripts before_ui_callback", "create ui", "add APIs", "app_started_callback")


def profile(checkpoints: Path, extension: Path | None) -> dict[str, float]:
    """Seconds of each part of one start."""
    with tempfile.TemporaryDirectory() as folder:
        server = WebUI(
            HOSTS["a1111"],
            Path(folder),
            checkpoints=checkpoints,
            extension=extension,
            page=True,
            # compiled files are kept, as in a user's start
            environment={"PYTHONDONTWRITEBYTECODE": ""},
        )
        with server:
            records = server.call("/internal/profile-startup")["records"]
    found = {part: records.get(part, 0.0) for part in PARTS}
    return {**found, "load scripts/amdm.py": records.get("load scripts/amdm.py", 0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True, help="a folder with alpha.safetensors")
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    runs: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    for _ in range(arguments.starts + 1):
        for ours in runs:
            runs[ours].append(profile(arguments.checkpoints, REPOSITORY if ours else None))
    print("| part of the start | without, ms | with, ms | more, ms |\n|---|---|---|---|")
    total = 0.0
    for part in runs[True][0]:
        without, with_it = (statistics.median(run[part] for run in runs[ours][1:]) * 1000 for ours in (False, True))
        # the script's own time is a part of "load scripts", told apart for its cause
        total += 0 if part.endswith(".py") else with_it - without
        print(f"| {part} | {without:.0f} | {with_it:.0f} | {with_it - without:.0f} |")
    print(f"| together | | | {total:.0f} |")


if __name__ == "__main__":
    main()
