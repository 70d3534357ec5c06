"""Put the bundled checkpoints into a WebUI: `python -m amdm_lab export WEBUI`.

Each is copied with a yaml beside it that names the text encoder's folder by its path on this machine, and the
tokenizer's files are made there. The WebUI lists them as amdm-shapes/shapes.safetensors and so on.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import yaml

from lib_amdm.errors import AmdmError

from .bundled import CLIP_FOLDER, DIALECT_OF, WEIGHTS
from .studio.tokenizer import write_tokenizer

MODELS = Path("models/Stable-diffusion")
FOLDER = "amdm-shapes"


def write_clip_folder(folder: Path) -> Path:
    """Write what a WebUI needs of the text encoder: its configuration and its tokenizer."""
    write_tokenizer(folder)
    shutil.copyfile(WEIGHTS / CLIP_FOLDER / "config.json", folder / "config.json")
    return folder


def export(webui: Path) -> list[Path]:
    """Copy the checkpoints into a WebUI's folder, or into any other folder of models; return their files.

    AmdmError if there is no such folder.
    """
    if not webui.is_dir():
        raise AmdmError(f'"{webui}" is not a folder; give the WebUI\'s own folder, or the one it keeps checkpoints in.')
    models = webui / MODELS if (webui / MODELS).is_dir() else webui
    target = (models / FOLDER).resolve()
    clip_folder = write_clip_folder(target / CLIP_FOLDER)
    files = []
    for name in DIALECT_OF:
        file = target / f"{name}.safetensors"
        shutil.copyfile(WEIGHTS / file.name, file)
        config = yaml.safe_load((WEIGHTS / f"{name}.yaml").read_text(encoding="utf-8"))
        config["model"]["params"]["cond_stage_config"]["params"]["version"] = str(clip_folder)
        file.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        files.append(file)
    return files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("webui", type=Path, help="the WebUI's folder, or the folder that it keeps checkpoints in")


def run(options: argparse.Namespace) -> None:
    for file in export(options.webui):
        print(file)
