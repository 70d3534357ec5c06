"""A running WebUI as a drawer, by its API."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from lib_amdm.comodels.file_list import readable
from lib_amdm.errors import AmdmError, cause, short
from lib_amdm.settings import Settings

from ..drawing import Drawn, Order
from ..infotexts import evaluations_in, values_of
from ..records import number, picture_in

TIMEOUT = 3600.0
"""Seconds: on a CPU a picture of full size may take many minutes."""
OWN_ROUTES = "/amdm/"
SAMPLER, SCHEDULER = "Euler", "Automatic"
MODELS, UNLOAD = f"{OWN_ROUTES}v1/models", f"{OWN_ROUTES}v1/unload"
TXT2IMG, MEMORY, PNG_INFO = "/sdapi/v1/txt2img", "/sdapi/v1/memory", "/sdapi/v1/png-info"
_MISREAD = (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, ValueError)
"""The errors of reading an answer that does not have the form of a WebUI's."""


class _WithinOneHost(HTTPRedirectHandler):
    """Follows no redirect to another address, which would get the login."""

    def redirect_request(self, request: Request, *details: Any) -> Request | None:
        target = str(details[-1])
        if _origin(target) != _origin(request.full_url):
            place = urlsplit(target)
            raise AmdmError(
                f"{_base(request.full_url)} sends its callers on to {place.scheme}://{place.netloc}; name that address "
                "with --url if it is the WebUI's."
            )
        return super().redirect_request(request, *details)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class WebUIDrawer:
    """Draws by a WebUI's API, which it must have been started with (`--api`).

    login: "user:password", if the WebUI requires one (`--api-auth`).
    """

    def __init__(self, url: str, login: str = "") -> None:
        self.url, self.login = ("" if "://" in url else "http://") + url.rstrip("/"), login

    def checkpoints(self) -> list[str]:
        return self._titles("checkpoints")

    def adapters(self) -> list[str]:
        return self._titles("adapters")

    def _titles(self, kind: str) -> list[str]:
        with self.reading(MODELS):
            return [readable(title) for title in self.request(MODELS)[kind]]

    def description(self) -> str:
        path = f"{OWN_ROUTES}v1/version"
        with self.reading(path):
            answer = self.request(path)
            return readable(f"{answer['host']} (AMDM {answer['version']})")

    def draw(self, order: Order) -> Drawn:
        settings = Settings.from_dict(order.settings) if order.settings else Settings()
        began = time.perf_counter()
        answer = self.request(TXT2IMG, request_of(order))
        seconds = time.perf_counter() - began
        with self.reading(TXT2IMG):
            data, info = base64.b64decode(answer["images"][0]), json.loads(answer["info"])
            infotext, evaluations = readable((info.get("infotexts") or [""])[0]), evaluations_in(info)
        try:
            picture = picture_in(data)
        except ValueError as error:
            raise AmdmError(
                f"{self.url} answered with a picture that cannot be read ({error}); let the WebUI save PNG, JPEG or "
                "WebP on its page Settings."
            ) from error
        if settings.runs and "AMDM" not in values_of(infotext):
            raise AmdmError(
                f"{self.url} drew a picture without AMDM, which its log says why; correct that, and let an error stop "
                "a picture on its page Settings, AMDM."
            )
        return Drawn(picture, seconds, infotext, evaluations)

    def loaded(self) -> list[tuple[str, int]]:
        """Return the names of what AMDM keeps in memory, with its bytes."""
        with self.reading(MODELS):
            loaded = []
            for entry in self.request(MODELS)["loaded"]:
                [name] = (value for key, value in entry.items() if key != "bytes")
                loaded.append((readable(name), int(number(entry["bytes"]))))
            return loaded

    def unload(self) -> tuple[int, int]:
        """Let AMDM forget what it keeps; return how many models that were, and their bytes."""
        with self.reading(UNLOAD):
            answer = self.request(UNLOAD, {})
            return int(number(answer["unloaded"])), int(number(answer["bytes"]))

    def figure(self, *keys: str) -> int | None:
        """Return a figure of the WebUI's memory by its keys, such as "ram", "used"; None if there is none."""
        try:
            figure = self.request(MEMORY)
            for key in keys:
                figure = figure[key]
            return int(number(figure))
        except (AmdmError, *_MISREAD):
            return None

    @contextmanager
    def reading(self, path: str) -> Iterator[None]:
        """Make a context to read an answer in: AmdmError if it does not have the form of a WebUI's."""
        try:
            yield
        except _MISREAD as error:
            raise AmdmError(
                f"{self.url}{path} gave an answer that is not a WebUI's ({cause(error)}); name the address of one with "
                "--url."
            ) from error

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Get a route's answer, or post `body` to it."""
        data = None if body is None else json.dumps(body).encode()
        try:
            request = Request(self.url + path, data, {"Content-Type": "application/json"})
            if self.login:
                request.add_header("Authorization", "Basic " + base64.b64encode(self.login.encode()).decode())
            with build_opener(_WithinOneHost).open(request, timeout=TIMEOUT) as answer:
                return json.load(answer)
        except HTTPError as error:
            if error.code == 404 and path.startswith(OWN_ROUTES):
                raise AmdmError(f"{self.url} has no AMDM; install it there, and start the WebUI with --api.") from error
            raise AmdmError(f"{self.url}{path} answered {error.code}: {_reason(error)}") from error
        except (URLError, HTTPException, OSError, RecursionError, ValueError) as error:
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


def _reason(error: HTTPError) -> str:
    """Return a WebUI's own words for an error: its body has one of a few fields."""
    try:
        body = json.load(error)
        words = (
            [body.get(key) for key in ("errors", "message", "detail", "error")] if isinstance(body, dict) else [body]
        )
        return str(next(filter(None, words), short(body)))
    except (HTTPException, OSError, RecursionError, ValueError):
        return str(error.reason)
