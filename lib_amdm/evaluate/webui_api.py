"""A running WebUI as a drawer, by its API."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from PIL import Image

from ..errors import AmdmError, cause, short
from ..settings import Settings
from .drawing import Drawn, Order

TIMEOUT = 3600.0
"""Seconds: on a CPU a picture of full size may take many minutes."""
OWN_ROUTES = "/amdm/"
SAMPLER, SCHEDULER = "Euler", "Automatic"
_TOOK_PART = re.compile(r"\bAMDM: ")
_EVALUATIONS = re.compile(r"(\d+) evaluations of (.+?)(?= and \d+ evaluations of |, \+)")


class WebUIDrawer:
    """Draws by a WebUI's API, which it must have been started with (`--api`).

    login: "user:password", where the WebUI asks for one (`--api-auth`).
    """

    def __init__(self, url: str, login: str = "") -> None:
        self.url, self.login = ("" if "://" in url else "http://") + url.rstrip("/"), login

    def checkpoints(self) -> list[str]:
        return list(self.asked("/amdm/v1/models")["checkpoints"])

    def adapters(self) -> list[str]:
        return list(self.asked("/amdm/v1/models")["adapters"])

    def description(self) -> str:
        found = self.asked("/amdm/v1/version")
        return f"{found['host']} (AMDM {found['version']})"

    def draw(self, order: Order) -> Drawn:
        began = time.perf_counter()
        answer = self.asked("/sdapi/v1/txt2img", request_of(order))
        seconds = time.perf_counter() - began
        picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")
        infotext = (json.loads(answer["info"]).get("infotexts") or [""])[0]
        if order.settings and Settings.from_dict(order.settings).runs and not _TOOK_PART.search(infotext):
            raise AmdmError(
                f"{self.url} drew a picture without AMDM, which its log says why; correct that, and let an error stop "
                "a picture on its page Settings, AMDM."
            )
        return Drawn(picture, seconds, infotext, evaluations_in(infotext))

    def memory(self) -> dict[str, Any]:
        """The WebUI's own figures of its memory, in bytes."""
        return dict(self.asked("/sdapi/v1/memory"))

    def asked(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Get a route's answer, or post `body` to it."""
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(self.url + path, data, {"Content-Type": "application/json"})
            if self.login:
                request.add_header("Authorization", "Basic " + base64.b64encode(self.login.encode()).decode())
            with urlopen(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code == 404 and path.startswith(OWN_ROUTES):
                raise AmdmError(f"{self.url} has no AMDM; install it there, and start the WebUI with --api.") from error
            raise AmdmError(f"{self.url}{path} answered {error.code}: {_reason(error)}") from error
        except (URLError, HTTPException, OSError, ValueError) as error:
            raise AmdmError(
                f"{self.url} does not answer as a WebUI's API does ({cause(error)}); start the WebUI with --api."
            ) from error


def request_of(order: Order) -> dict[str, Any]:
    """Write an order as the body of `/sdapi/v1/txt2img`."""
    body: dict[str, Any] = {
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        "seed": order.seed,
        "steps": order.steps,
        "sampler_name": order.sampler or SAMPLER,
        "scheduler": order.schedule or SCHEDULER,
        "cfg_scale": order.cfg_scale,
        "width": order.width,
        "height": order.height,
        "override_settings": {"sd_model_checkpoint": order.checkpoint},
        # the next picture is likely to need the same checkpoint
        "override_settings_restore_afterwards": False,
        "alwayson_scripts": {"AMDM": {"args": [dict(order.settings or {"enabled": False})]}},
    }
    if order.refiner:
        body["refiner_checkpoint"], body["refiner_switch_at"] = order.refiner
    return body


def evaluations_in(infotext: str) -> dict[str, int]:
    """Read each co-model's evaluations in the line "AMDM ran" of an infotext; co-models of one name count together."""
    evaluations: dict[str, int] = {}
    for count, name in _EVALUATIONS.findall(infotext.partition("AMDM ran: ")[2]):
        evaluations[name] = evaluations.get(name, 0) + int(count)
    return evaluations


def _reason(error: HTTPError) -> str:
    """Return a WebUI's own words for an error: its body has one of a few fields."""
    try:
        body = json.load(error)
    except ValueError:
        return str(error.reason)
    said = [body.get(key) for key in ("errors", "message", "detail", "error")] if isinstance(body, dict) else [body]
    return str(next((each for each in said if each), short(body)))
