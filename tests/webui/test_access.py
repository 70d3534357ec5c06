"""Who may ask: with the WebUI's --api-auth, AMDM's routes want the same login as the WebUI's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from .webui_server import WebUI

ROUTES = [("GET", "version"), ("GET", "schema"), ("GET", "models"), ("POST", "unload")]


@pytest.fixture(scope="module")
def guarded(start_webui: Callable[..., WebUI]) -> WebUI:
    return start_webui(arguments=["--api-auth", "me:secret,you:other"], login=("me", "secret"))


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_a_route_answers_those_with_a_login_and_nobody_else(guarded: WebUI, method: str, route: str) -> None:
    def status(login: tuple[str, str] | None) -> int:
        return requests.request(method, guarded.url(f"/amdm/v1/{route}"), auth=login, timeout=30).status_code

    logins = [None, ("me", "other"), ("nobody", ""), ("me", "secret"), ("you", "other")]
    assert [status(login) for login in logins] == [401, 401, 401, 200, 200]


@pytest.mark.parametrize(("method", "route"), ROUTES)
def test_without_api_auth_a_route_is_open(webui: WebUI, method: str, route: str) -> None:
    assert requests.request(method, webui.url(f"/amdm/v1/{route}"), timeout=30).status_code == 200
