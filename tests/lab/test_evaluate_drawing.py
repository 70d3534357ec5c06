"""Drawers of an evaluation's pictures: a WebUI's API, here one that is not there, and the standalone host."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from PIL import Image

from amdm_lab import cli as command
from amdm_lab.drawers.webui_api import WebUIDrawer, evaluations_in
from amdm_lab.drawing import Order
from lib_amdm.errors import AmdmError
from lib_amdm.hosts.protocol import Ran
from lib_amdm.webui.infotext import with_run

RAN = 'a cat\nSteps: 4, Seed: 1, AMDM: True, AMDM ran: "3 models, 3 of 4 steps, {}, +0.9 s of 7.1 s"'
MIXED = {"enabled": True, "co_models": [{"checkpoint": "beta"}]}


class Server(ThreadingHTTPServer):
    """Answers as a WebUI with AMDM does, with the infotext that a test wants; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Any] = {
            "/amdm/v1/version": {"version": "1.0", "host": "a1111"},
            "/amdm/v1/models": {"checkpoints": ["alpha"], "adapters": ["MIGC.ckpt"], "loaded": []},
        }
        self.infotext = RAN.format("3 evaluations of beta")
        self.evaluations = [{"checkpoint": "beta", "evaluations": 3}]
        self.asked: list[tuple[str, Any, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.redirect = ""
        """An address before every path, to which a caller is sent on once."""

    @property
    def info(self) -> dict[str, Any]:
        params = {"AMDM passes": {"first": {"evaluations": self.evaluations}}} if self.evaluations else {}
        return {"infotexts": [self.infotext], "extra_generation_params": params}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(body)

    def _answer(self, body: Any) -> None:
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        if self.server.redirect and not self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.server.redirect + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        answer = self.server.answers.get(self.path)
        if self.path == "/sdapi/v1/txt2img" and answer is None:
            answer = {"images": [_png()], "info": json.dumps(self.server.info)}
        status, answer = answer if isinstance(answer, tuple) else (404 if answer is None else 200, answer or {})
        sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


def _png() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def served() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from served()


def order(**told: Any) -> Order:
    return Order(**{"checkpoint": "alpha", "prompt": "a cat", "seed": 1, "steps": 4, **told})


def test_an_order_is_what_the_api_takes(server: Server) -> None:
    drawn = WebUIDrawer(server.url + "/").draw(order(settings=MIXED, refiner=("beta", 0.5), width=64))
    [(path, body, login)] = server.asked
    assert path == "/sdapi/v1/txt2img" and login is None
    told = {"prompt": "a cat", "seed": 1, "steps": 4, "width": 64, "height": 512, "refiner_checkpoint": "beta"}
    assert told.items() <= body.items() and body["refiner_switch_at"] == 0.5
    assert body["override_settings"] == {"sd_model_checkpoint": "alpha"}
    assert body["alwayson_scripts"] == {"AMDM": {"args": [MIXED]}}
    assert drawn.picture.size == (8, 8) and drawn.picture.mode == "RGB" and drawn.seconds > 0
    assert drawn.evaluations == {"beta": 3}


def test_without_settings_amdm_is_off(server: Server) -> None:
    server.infotext = "a cat\nSteps: 4"
    WebUIDrawer(server.url).draw(order())
    assert server.asked[0][1]["alwayson_scripts"] == {"AMDM": {"args": [{"enabled": False}]}}


def test_a_picture_that_amdm_took_no_part_in_is_an_error_where_it_should_have(server: Server) -> None:
    server.infotext = "a cat\nSteps: 4"
    with pytest.raises(AmdmError, match="drew a picture without AMDM"):
        WebUIDrawer(server.url).draw(order(settings=MIXED))
    server.evaluations = []
    idle = {"enabled": True, "co_models": [{"checkpoint": "beta", "gamma": 0}]}
    assert WebUIDrawer(server.url).draw(order(settings=idle)).evaluations == {}


def test_lists_and_description_are_the_webuis(server: Server) -> None:
    drawer = WebUIDrawer(server.url, login="me:secret")
    assert WebUIDrawer(server.url.removeprefix("http://")).url == server.url
    assert (drawer.checkpoints(), drawer.adapters()) == (["alpha"], ["MIGC.ckpt"])
    assert drawer.description() == "a1111 (AMDM 1.0)"
    assert {login for _, _, login in server.asked} == {"Basic " + base64.b64encode(b"me:secret").decode()}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, {"error": "OutOfMemoryError", "errors": "no room"}), "answered 500: no room"),
        ((500, {"error": "AmdmError", "message": "slot 1"}), "answered 500: slot 1"),
        ((401, {"detail": "Not authenticated"}), "answered 401: Not authenticated"),
        ((422, {"detail": [{"loc": ["body"], "msg": "bad"}]}), "answered 422: .*bad"),
        ((502, b"<html>"), "answered 502: Bad Gateway"),
        ((200, b"<html>"), "does not answer as a WebUI's API does"),
    ],
)
def test_a_refusal_is_told_in_the_webuis_words(server: Server, answer: tuple[int, Any], said: str) -> None:
    server.answers["/sdapi/v1/txt2img"] = answer
    with pytest.raises(AmdmError, match=said):
        WebUIDrawer(server.url).draw(order())


def test_a_webui_without_amdm_or_without_an_answer_is_named(server: Server) -> None:
    server.answers.clear()
    with pytest.raises(AmdmError, match=f"^{server.url} has no AMDM; install it there"):
        WebUIDrawer(server.url).checkpoints()
    with pytest.raises(AmdmError, match=r"does not answer .* start the WebUI with --api\.$"):
        WebUIDrawer("http://127.0.0.1:1").checkpoints()
    with pytest.raises(AmdmError, match=r"does not answer .* start the WebUI with --api\.$"):
        WebUIDrawer("no address").checkpoints()


@pytest.mark.parametrize(
    ("passes", "counts"),
    [
        ({"first": [("beta", 3)]}, {"beta": 3}),
        ({"first": [("sub/beta.safetensors [6ce0161689]", 3), ("a and b", 4)]}, {"beta": 3, "a and b": 4}),
        ({"first": [("main", 3), ("main", 4)]}, {"main": 7}),
        ({"first": [("beta", 3)], "hires": [("beta", 2)]}, {"beta": 5}),
        ({}, {}),
    ],
)
def test_evaluations_are_read_from_the_answers_data(passes: dict[str, Any], counts: dict[str, int]) -> None:
    data: dict[str, Any] = {}
    for name, evaluations in passes.items():
        data = with_run(data, name, Ran(3, 4, evaluations, None, None))
    assert evaluations_in(json.loads(json.dumps({"extra_generation_params": data}))) == counts
    assert evaluations_in({}) == {}


def test_a_prompt_does_not_pass_for_the_line_of_what_ran(server: Server) -> None:
    line = 'AMDM: True, AMDM ran: "2 models, 1 of 1 steps, 9 evaluations of gone, +0.1 s of 0.2 s"'
    for quoted in (f"{line}\nSteps: 4", f"a\nNegative prompt: {line}\nSteps: 4, AMDM 1 prompt: {json.dumps(line)}"):
        server.infotext = quoted
        with pytest.raises(AmdmError, match="drew a picture without AMDM"):
            WebUIDrawer(server.url).draw(order(settings=MIXED))
    server.infotext = RAN.format("3 evaluations of beta") + "\nTemplate: {a|b}"
    assert WebUIDrawer(server.url).draw(order(settings=MIXED)).infotext == server.infotext


def test_the_commands_are_listed_where_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2 and command.main(["nonsense"]) == 2
    assert command.main(["--help"]) == 0
    told = capsys.readouterr()
    assert all(name in told.out and name in told.err for name in command.COMMANDS)


def test_the_standalone_host_draws_what_it_is_ordered() -> None:
    pytest.importorskip("diffusers")
    from amdm_lab.bundled import ADAPTERS, LAYOUT_ADAPTER, WEIGHTS
    from amdm_lab.drawers.studio import StandaloneDrawer
    from amdm_lab.studio.host import Standalone

    drawer = StandaloneDrawer(Standalone(WEIGHTS, adapter_folders=[ADAPTERS]))
    assert {name.removesuffix(".safetensors") for name in drawer.checkpoints()} >= {"shapes", "colours"}
    assert LAYOUT_ADAPTER.name in drawer.adapters()
    assert "cpu" in drawer.description()
    small = {"checkpoint": "shapes", "steps": 3, "width": 64, "height": 64, "prompt": "a circle"}
    alone = drawer.draw(order(**small))
    mixed = {"enabled": True, "steps": 2, "evaluations": 0, "co_models": [{"checkpoint": "colours"}]}
    together = drawer.draw(order(**small, settings=mixed))
    assert alone.picture.size == together.picture.size == (64, 64)
    assert alone.picture.tobytes() != together.picture.tobytes()
    assert (alone.evaluations, together.evaluations) == ({"shapes": 3}, {"shapes": 3, "colours": 2})
    with pytest.raises(AmdmError, match="--url"):
        drawer.draw(order(**small, refiner=("colours", 0.5)))
