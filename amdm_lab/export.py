"""Put the bundled checkpoints into a WebUI: `python -m amdm_lab export WEBUI`.

Each is copied with a yaml beside it that names the text encoder's folder by its path on this machine, and the
tokenizer's files are made there. The WebUI lists them as amdm-shapes/shapes.safetensors and so on.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from lib_amdm import command_line
from lib_amdm.errors import AmdmError

from .bundled import CLIP_FOLDER, DIALECT_OF, WEIGHTS
from .studio.tokenizer import write_tokenizer

MODELS = Path("models/Stable-diffusion")
FOLDER = "amdm-shapes"


def export(webui: Path) -> list[Path]:
    """Copy the checkpoints into a WebUI's folder, or into any other folder of models; returns the checkpoints' files.

    AmdmError where there is no such folder.
    """
    if not webui.is_dir():
        raise AmdmError(f'"{webui}" is not a folder; give the WebUI\'s own folder, or the one it keeps checkpoints in.')
    models = webui / MODELS if (webui / MODELS).is_dir() else webui
    target = (models / FOLDER).resolve()
    clip_folder = write_tokenizer(target / CLIP_FOLDER)
    shutil.copyfile(WEIGHTS / CLIP_FOLDER / "config.json", clip_folder / "config.json")
    files = []
    for name in DIALECT_OF:
        file = target / f"{name}.safetensors"
        shutil.copyfile(WEIGHTS / file.name, file)
        config = yaml.safe_load((WEIGHTS / f"{name}.yaml").read_text(encoding="utf-8"))
        config["model"]["params"]["cond_stage_config"]["params"]["version"] = str(clip_folder)
        file.with_suffix(".yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        files.append(file)
    return files


def main(arguments: list[str] | None = None) -> None:
    parser = command_line.parser(command_line.typed("amdm_lab export"), __doc__)
    parser.add_argument("webui", type=Path, help="the WebUI's folder, or the folder that it keeps checkpoints in")
    try:
        for file in export(parser.parse_args(arguments).webui):
            print(file)
    except AmdmError as error:
        parser.exit(1, f"{error}\n")
