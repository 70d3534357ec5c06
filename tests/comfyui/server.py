"""A real ComfyUI, started for the tests: on the CPU, with a separate data directory, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import requests
import torch
from safetensors.torch import load_file
from webui.webui_server import end, free_port, offline_environment

VARIABLE = "AMDM_COMFYUI_DIR"
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
START_SECONDS, PROMPT_SECONDS = 300, 600
FLAGS = (
    "--cpu",
    # one way to compute attention: the order of additions, and so the last bit, is the same in every run
    "--use-pytorch-cross-attention",
    "--disable-auto-launch",
    "--disable-api-nodes",
    "--preview-method",
    "latent2rgb",
)
Graph = dict[str, dict[str, Any]]


class ComfyUIError(RuntimeError):
    """ComfyUI did not start, or a prompt failed."""


def directory() -> Path | None:
    """The checkout of ComfyUI under test."""
    found = os.environ.get(VARIABLE)
    return Path(found) if found else None


def python(checkout: Path) -> str:
    """The Python with ComfyUI's requirements."""
    return os.environ.get("AMDM_COMFYUI_PYTHON") or str(checkout / "venv" / "bin" / "python")


class ComfyUI:
    """One process of ComfyUI. The files of `checkpoints` are linked into its folders, and so is the repository."""

    def __init__(self, checkout: Path, data: Path, checkpoints: Path, pack: Path | None = REPOSITORY) -> None:
        self.checkout, self.data = checkout, data
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        for name in ("checkpoints", "loras"):
            (data / "models" / name).mkdir(parents=True)
        for file in checkpoints.glob("*.safetensors"):
            kind = "loras" if file.stem == "lora" else "checkpoints"
            (data / "models" / kind / file.name).symlink_to(file)
        custom = data / "custom_nodes"
        custom.mkdir()
        (custom / "amdm-tests").symlink_to(HERE / "nodes", target_is_directory=True)
        if pack:
            (custom / "sd-webui-amdm").symlink_to(pack, target_is_directory=True)

        user = data / "user" / "default"
        user.mkdir(parents=True)
        # a new user is shown the templates, and a map in front of the graph
        (user / "comfy.settings.json").write_text(
            json.dumps({"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False})
        )

    # ---- life ----

    @property
    def log(self) -> str:
        """All that the process has written."""
        return (self.data / "server.log").read_text(errors="replace")

    def start(self) -> ComfyUI:
        """Start the process, and wait until it answers."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [python(self.checkout), "main.py", *FLAGS, "--port", str(port), "--base-directory", str(self.data)]
        command += ["--database-url", f"sqlite:///{self.data / 'comfyui.db'}"]
        begun = time.monotonic()
        with (self.data / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.checkout, env=offline_environment(self.data), stdout=log, stderr=subprocess.STDOUT
            )
        while time.monotonic() - begun < START_SECONDS:
            if self._process.poll() is not None:
                raise ComfyUIError(f"ComfyUI ended at its start:\n{self.log[-4000:]}")
            try:
                self.get("/system_stats")
                return self
            except requests.ConnectionError:
                time.sleep(0.2)
        self.stop()
        raise ComfyUIError(f"ComfyUI did not answer in {START_SECONDS} s:\n{self.log[-4000:]}")

    def stop(self) -> None:
        """End the process."""
        if self._process:
            end(self._process)

    # ---- requests ----

    def get(self, path: str) -> Any:
        """The answer to a request, read as JSON."""
        answer = self._session.get(self.url + path, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        """The answer to a request with a body."""
        return self._session.post(self.url + path, json=body or {}, timeout=60)

    def queue(self, graph: Graph, client: str = "") -> str:
        """Put a prompt into the queue; its id. client: the one that is sent its progress."""
        answer = self.post("/prompt", {"prompt": graph, "client_id": client or uuid.uuid4().hex})
        if answer.status_code != 200:
            raise ComfyUIError(json.dumps(answer.json()))
        return answer.json()["prompt_id"]

    def wait(self, prompt: str) -> dict[str, Any]:
        """The record of a prompt once it has ended."""
        begun = time.monotonic()
        while time.monotonic() - begun < PROMPT_SECONDS:
            if found := self.get(f"/history/{prompt}"):
                return found[prompt]
            time.sleep(0.02)
        raise ComfyUIError("the prompt did not end")

    def error(self, graph: Graph) -> str:
        """The message of a prompt that fails."""
        record = self.wait(self.queue(graph))
        [message] = [body for kind, body in record["status"]["messages"] if kind == "execution_error"]
        return message["exception_message"].strip()

    def latents(self, graph: Graph) -> torch.Tensor:
        """The latents that a prompt saves."""
        return self.saved(self.wait(self.queue(graph)))

    def saved(self, record: dict[str, Any]) -> torch.Tensor:
        """The latents that an ended prompt has saved."""
        if record["status"]["status_str"] != "success":
            failed = [body for kind, body in record["status"]["messages"] if kind == "execution_error"]
            raise ComfyUIError(
                "\n".join([failed[0]["exception_message"], *failed[0]["traceback"]] if failed else ["?"])
            )
        [file] = [file for output in record["outputs"].values() for file in output.get("latents", ())]
        return load_file(self.data / "output" / file["subfolder"] / file["filename"])["latent_tensor"]

    def counts(self) -> dict[str, int]:
        """The evaluations of the counted models since the last call."""
        return self.get("/tests/counts")
