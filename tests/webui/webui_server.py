"""A real WebUI, started for the tests: its own data directory, no GPU, no network."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from .hosts import Host
from .rehearsal import LAUNCH, Rehearsal

EXTENSION_NAME = "amdm"
PROBE = Path(__file__).resolve().parent / "probe"
START_SECONDS = 300
REQUEST_SECONDS = 600


COMMON_FLAGS = (
    # nothing is installed, downloaded or asked of a network here, and there is no GPU
    "--skip-prepare-environment",
    "--skip-install",
    "--skip-python-version-check",
    "--skip-torch-cuda-test",
    "--skip-version-check",
)

OPTIONS: dict[str, Any] = {
    # by default a preview is decoded with a model that the WebUI would have to download
    "show_progress_type": "Approx cheap",
    # with the default a page opens in the tester's own browser
    "auto_launch_browser": "Disable",
    # the pictures of an answer are those that were asked for, and are compared with others
    "return_grid": False,
    # the defaults: an option must be in the file for the WebUI to put it back after a request has overridden it
    "CLIP_stop_at_last_layers": 1,
    "sd_checkpoints_limit": 1,
    "sd_vae": "Automatic",
}
"""Differences from a user's first start, with reasons; hashes, previews and saved pictures are as users have them."""

DRAWING: dict[str, Any] = {
    "prompt": "a red square",
    "negative_prompt": "",
    "seed": 1,
    "steps": 8,
    "width": 64,
    "height": 64,
    # random models answer to the prompt far more than trained ones: a usual scale would blow the latent up
    "cfg_scale": 3,
    "sampler_name": "Euler",
    "scheduler": "Automatic",
}
"""The request :meth:`WebUI.txt2img` and :meth:`WebUI.img2img` send where the test says nothing else."""

STYLE = ("of glass", "{prompt} made of glass", "wood {prompt}")
"""The one style in the WebUI's list: its name, prompt and negative prompt."""

UNREADABLE: dict[str, Any] = {"styles": []}
"""Further fields of a request with an infotext: Forge cannot read fields from one that are lists."""

PRIVATE_VARIABLES = ("COMMANDLINE_ARGS", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SD_WEBUI_RESTARTING")


class WebUIError(RuntimeError):
    """The WebUI did not start, or answered a request with an error."""


def offline_environment(home: Path) -> dict[str, str]:
    """The environment of everything the tests run with the WebUI's Python."""
    environment = {key: value for key, value in os.environ.items() if key not in PRIVATE_VARIABLES}
    environment.update(
        HF_HOME=str(home),
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        GRADIO_ANALYTICS_ENABLED="False",
        CUDA_VISIBLE_DEVICES="",
        NO_PROXY="127.0.0.1,localhost",
        no_proxy="127.0.0.1,localhost",
        PYTHONUNBUFFERED="1",
        # one thread: the order of additions, and so the last bit, is the same in every run
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
    )
    return environment


def make_checkpoints(host: Host, script: Path, folder: Path, *arguments: str) -> None:
    """Run a script that writes checkpoints into a folder, with the WebUI's own Python and from its directory."""
    result = subprocess.run(
        [host.python(), str(script), "--out", str(folder), *arguments, *host.cpu_flags],
        cwd=host.directory(),
        env=offline_environment(folder / "hub"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, f"making the checkpoints failed:\n{result.stdout[-4000:]}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force if it does not end by itself."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def encode_picture(pixels: np.ndarray) -> str:
    """A picture as the WebUI's API takes it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class WebUI:
    """One WebUI process, with a data directory of its own.

    `checkpoints` is a folder whose files are linked into the model folder; the parts of `extension` are linked into a
    folder of the extension folder, which is absent if None; `probe` adds the tests' own. `page` serves the page besides
    the API, and `api` the API besides the page. It stays on the CPU, or has a rehearsed `card`.
    """

    def __init__(
        self,
        host: Host,
        data: Path,
        *,
        checkpoints: Path | None = None,
        first_checkpoint: str = "alpha.safetensors",
        extension: Path | None = None,
        others: Sequence[Path] = (),
        probe: bool = False,
        page: bool = False,
        api: bool = True,
        arguments: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        login: tuple[str, str] | None = None,
        card: Rehearsal | None = None,
    ):
        directory = host.directory()
        if directory is None:
            raise WebUIError(f"{host.directory_variable} is not set")
        self.host, self.directory, self.data = host, directory, data
        self.page, self.api, self.card = page, api, card
        self.arguments = tuple(arguments)
        self.environment = dict(environment or {})
        own = {"sd_model_checkpoint": first_checkpoint, **(card.options if card else {}), **(options or {})}
        self.options = {**OPTIONS, **host.options, **own}
        self.port = 0
        self.start_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.auth = login
        own_probe = PROBE if probe else None
        further = {f"{EXTENSION_NAME}-{folder.name}": folder for folder in others}
        self._lay_out(checkpoints, {EXTENSION_NAME: extension, f"{EXTENSION_NAME}-probe": own_probe, **further})

    # ---- files ----

    @property
    def checkpoint_folder(self) -> Path:
        """The folder this WebUI reads checkpoints from; call :meth:`refresh_checkpoints` after adding one."""
        return self.data / "models" / "Stable-diffusion"

    @property
    def log_file(self) -> Path:
        """Everything the process has written."""
        return self.data / "server.log"

    def _lay_out(self, checkpoints: Path | None, extensions: Mapping[str, Path | None]) -> None:
        self.checkpoint_folder.mkdir(parents=True, exist_ok=True)
        (self.data / "extensions").mkdir(exist_ok=True)
        for file in sorted(checkpoints.iterdir()) if checkpoints else ():
            if file.is_file():
                (self.checkpoint_folder / file.name).symlink_to(file)
        for name, extension in extensions.items():
            if extension:
                self._link_extension(name, extension)
        (self.data / "styles.csv").write_text(f"name,prompt,negative_prompt\n{','.join(STYLE)}\n")
        (self.data / "config.json").write_text(json.dumps(self.options))
        if self.host.controls:
            (self.data / "ui-config.json").write_text(json.dumps(dict(self.host.controls)))

    def _link_extension(self, name: str, extension: Path) -> None:
        """Link the parts, not the whole: the WebUI reports an error for a Git checkout without a remote."""
        folder = self.data / "extensions" / name
        folder.mkdir()
        for part in extension.iterdir():
            if not part.name.startswith("."):
                (folder / part.name).symlink_to(part, target_is_directory=part.is_dir())

    # ---- life ----

    def command(self) -> list[str]:
        """The command line."""
        place = ["--data-dir", str(self.data), "--server-name", "127.0.0.1", "--port", str(self.port)]
        # with the data elsewhere, a page of gradio 4 is not given the WebUI's own scripts and styles
        page = ["--gradio-allowed-path", str(self.directory)] if self.page else ["--nowebui"]
        api = ["--api"] if self.api else []
        start = [self.host.python(), *([str(LAUNCH)] if self.card else []), self.host.script]
        device = self.card.arguments(self.host) if self.card else self.host.cpu_flags
        return [*start, *COMMON_FLAGS, *self.host.flags, *device, *page, *api, *place, *self.arguments]

    def start(self) -> WebUI:
        """Start the process and wait until it answers."""
        self.port = free_port()
        begin = time.monotonic()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env={
                    **offline_environment(self.data / "hub"),
                    **(self.card.variables() if self.card else {}),
                    **self.environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait(begin + START_SECONDS)
            self._refuse_failed_extensions()
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - begin
        return self

    def _wait(self, deadline: float) -> None:
        ready = (self.host.ready_text, self.host.card_ready_text if self.card else "")
        while time.monotonic() < deadline:
            if not self.running:
                raise WebUIError(f"the WebUI ended while starting:\n{self.log[-4000:]}")
            # with its page, the WebUI answers before it has finished setting up the API: its own word is needed as well
            if all(text in self.log for text in ready) and self._answers():
                return
            time.sleep(0.1)
        raise WebUIError(f"the WebUI did not answer within {START_SECONDS} s:\n{self.log[-4000:]}")

    def _refuse_failed_extensions(self) -> None:
        """WebUIError where a traceback of the start goes through an extension: the WebUI writes it down and goes on."""
        if f'File "{self.data / "extensions"}' in self.log:
            raise WebUIError(f"an extension failed while the WebUI started:\n{self.log[-4000:]}")

    def _answers(self) -> bool:
        path = "/sdapi/v1/options" if self.api else "/internal/ping"
        try:
            return self._session.get(self.url(path), timeout=5).ok
        except requests.RequestException:
            return False

    @property
    def running(self) -> bool:
        """True if the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def memory(self) -> int:
        """Bytes of the process's own memory, without the files it has mapped."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [kilobytes] = re.findall(r"^RssAnon:\s+(\d+) kB$", status, re.M)
        return 1024 * int(kilobytes)

    def has_mapped(self, name: str) -> bool:
        """Return True if a file of this name is in the process's memory: on Windows no one could write over it."""
        assert self._process is not None
        return name in Path(f"/proc/{self._process.pid}/maps").read_text()

    def stop(self) -> None:
        """End the process."""
        if self._process is None:
            return
        end(self._process)
        self._process = None
        self._session.close()

    def __enter__(self) -> WebUI:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- log ----

    @property
    def log(self) -> str:
        """The text of the log so far, one progress bar state per line."""
        return self.log_file.read_text(errors="replace").replace("\r", "\n") if self.log_file.exists() else ""

    def errors(self, since: int = 0) -> list[str]:
        """The lines of the log, from character `since` on, with which the WebUI reports an error."""
        return re.findall(r"^(?:\*\*\* .*|[ \t]*Traceback \(most recent call last\):)$", self.log[since:], re.M)

    # ---- requests ----

    def url(self, path: str) -> str:
        """The address of a path on this server."""
        return f"http://127.0.0.1:{self.port}{path}"

    def get(self, path: str) -> requests.Response:
        """Send a GET request; errors are the caller's to look at."""
        return self._session.get(self.url(path), timeout=REQUEST_SECONDS)

    def post(self, path: str, json: Any = None) -> requests.Response:
        """Send a POST request; errors are the caller's to look at."""
        answer = self._session.post(self.url(path), json=json, timeout=REQUEST_SECONDS)
        if answer.status_code >= 500:
            # some WebUIs hang up after an error, and the next request would find that out
            self._session.close()
        return answer

    def call(self, path: str, json: Any = None) -> Any:
        """Send a POST request, or a GET request without `json`, and return the answer; an error answer is raised."""
        answer = self.get(path) if json is None else self.post(path, json)
        if not answer.ok:
            raise WebUIError(f"{path}: {answer.status_code} {answer.text[:2000]}")
        return answer.json()

    def txt2img(self, *, checkpoint: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Draw from a prompt; `checkpoint` holds for this request alone."""
        return self._answer("txt2img", self.request(checkpoint, parameters))

    def img2img(self, picture: np.ndarray, *, checkpoint: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Draw from a prompt and a picture; `mask`, an array, makes it an inpainting."""
        return self._answer("img2img", self.request(checkpoint, parameters, picture))

    def _answer(self, mode: str, request: dict[str, Any]) -> dict[str, Any]:
        return self.call(f"/sdapi/v1/{mode}", request)

    def from_infotext(self, infotext: str) -> dict[str, Any]:
        """Draw what an infotext says."""
        return self.call("/sdapi/v1/txt2img", {**self.host.request, **UNREADABLE, "infotext": infotext})

    def request(
        self, checkpoint: str | None, parameters: Mapping[str, Any], picture: np.ndarray | None = None
    ) -> dict[str, Any]:
        """The body of a request for a picture, or of one from a picture."""
        request = {**DRAWING, **self.host.request, **parameters}
        if "infotext" in request:
            request = {**UNREADABLE, **request}
        if "hr_upscaler" in request:
            request["hr_upscaler"] = self.host.upscalers.get(request["hr_upscaler"], request["hr_upscaler"])
        if picture is not None:
            request["init_images"] = [encode_picture(picture)]
        if isinstance(request.get("mask"), np.ndarray):
            request["mask"] = encode_picture(request["mask"])
        if checkpoint:
            request["override_settings"] = {
                **request.get("override_settings", {}),
                "sd_model_checkpoint": self.title(checkpoint),
            }
        return request

    @staticmethod
    def pixels(answer: Mapping[str, Any]) -> list[np.ndarray]:
        """The pictures of an answer, as arrays of bytes."""
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))) for picture in answer["images"]]

    # ---- checkpoints ----

    def checkpoints(self) -> list[str]:
        """The names, without suffix, of the checkpoints the WebUI lists."""
        return [entry["model_name"] for entry in self.call("/sdapi/v1/sd-models")]

    def title(self, name: str) -> str:
        """The title the WebUI gives a checkpoint. It silently ignores a checkpoint it does not know; this raises."""
        titles = {entry["model_name"]: entry["title"] for entry in self.call("/sdapi/v1/sd-models")}
        if name not in titles:
            raise WebUIError(f"no checkpoint {name!r} among {sorted(titles)}")
        return titles[name]

    def refresh_checkpoints(self) -> None:
        """Let the WebUI read its checkpoint folder again."""
        answer = self.post("/sdapi/v1/refresh-checkpoints")
        if not answer.ok:
            raise WebUIError(answer.text)

    def use_checkpoint(self, name: str) -> None:
        """Load a checkpoint as the main model, until another one is chosen."""
        self.call("/sdapi/v1/options", {"sd_model_checkpoint": self.title(name)})
