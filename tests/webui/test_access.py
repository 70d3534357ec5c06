"""Access: AMDM's routes are there where the WebUI has an API, and want its login or else its page's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from .webui_server import WebUI

ROUTES = [("GET", "version"), ("GET", "schema"), ("GET", "models"), ("POST", "unload")]
each_route = pytest.mark.parametrize(("method", "route"), ROUTES)


def status(server: WebUI, method: str, route: str, login: tuple[str, str] | None = None) -> int:
    return requests.request(method, server.url(f"/amdm/v1/{route}"), auth=login, timeout=30).status_code


@pytest.fixture(scope="module")
def guarded(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui(arguments=["--api-auth", "me:secret,you:other"], login=("me", "secret"))


@each_route
def test_a_route_answers_those_with_a_login_and_nobody_else(guarded: WebUI, method: str, route: str) -> None:
    logins = [None, ("me", "other"), ("nobody", ""), ("me", "secret"), ("you", "other")]
    assert [status(guarded, method, route, login) for login in logins] == [401, 401, 401, 200, 200]


@each_route
def test_without_a_login_anywhere_a_route_is_open(webui: WebUI, method: str, route: str) -> None:
    assert status(webui, method, route) == 200


@pytest.fixture(scope="module")
def page_with_login(start_webui: Callable[..., WebUI], tmp_path_factory: pytest.TempPathFactory) -> WebUI:
    file: Path = tmp_path_factory.mktemp("logins") / "logins.txt"
    file.write_text("you:a:b, they:third\n\n")
    return start_webui(page=True, arguments=["--listen", "--gradio-auth", "me:secret", "--gradio-auth-path", str(file)])


@each_route
def test_the_pages_login_guards_a_route_where_the_api_has_none(page_with_login: WebUI, method: str, route: str) -> None:
    logins = [None, ("me", "a:b"), ("nobody", ""), ("me", "secret"), ("you", "a:b"), ("they", "third")]
    assert [status(page_with_login, method, route, login) for login in logins] == [401, 401, 401, 200, 200, 200]


def test_the_page_takes_the_same_logins(page_with_login: WebUI) -> None:
    """So that the tests above say something: it is closed, and open to who logs in."""

    def shown(login: dict[str, str] | None) -> int:
        with requests.Session() as session:
            if login:
                session.post(page_with_login.url("/login"), data=login, timeout=30)
            return session.get(page_with_login.url("/config"), timeout=60).status_code

    logins = [None, {"username": "me", "password": "other"}, {"username": "you", "password": "a:b"}]
    assert [shown(login) for login in logins] == [401, 401, 200]


@pytest.fixture(scope="module")
def page_alone(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui(page=True, api=False)


@each_route
def test_without_the_api_there_is_no_route(page_alone: WebUI, method: str, route: str) -> None:
    assert status(page_alone, method, route) in (404, 405)


def test_without_the_api_the_panel_is_there(page_alone: WebUI) -> None:
    config = requests.get(page_alone.url("/config"), timeout=60).text
    assert "script_txt2img_amdm_enabled" in config and "script_img2img_amdm_checkpoint_1" in config
    assert page_alone.errors() == []
