"""The settings a request carries, the routes beside the WebUI's own, and the options page."""

from __future__ import annotations

from typing import Any

import pytest
from fake_host import ADAPTERS, TITLES, FakeHost, functions, parameters

from lib_amdm import __version__
from lib_amdm.comodels.cache import InMemory
from lib_amdm.errors import AmdmError
from lib_amdm.files.pictures import as_text, fingerprint, open_picture
from lib_amdm.hosts import protocol
from lib_amdm.hosts.protocol import PassOptions
from lib_amdm.settings import CoModel, PictureSpec, Settings, SettingsError, flat
from lib_amdm.webui import api, options

DEFAULTS = [spec.default for _, spec in flat(3)]


def test_one_object_with_names() -> None:
    given = {"enabled": True, "steps": 5, "co_models": [{"checkpoint": "beta", "gamma": 0.3}]}
    expected = Settings(enabled=True, steps=5, co_models=(CoModel(checkpoint="beta", gamma=0.3),))
    assert api.read_args([given]) == expected
    # the WebUI replaces the first of the panel's defaults, and the others stay behind it
    assert api.read_args([given, *DEFAULTS[1:]]) == expected


def test_a_plain_list_is_the_panel() -> None:
    values = list(DEFAULTS)
    values[0], values[1] = True, 7.0  # the page sends whole numbers as either kind
    settings = api.read_args(values)
    assert settings == Settings(enabled=True, steps=7, co_models=(CoModel(),) * 3)
    assert type(settings.steps) is int


def test_the_page_tells_words_and_a_request_tells_words_or_null() -> None:
    """The page's text boxes say "auto" or nothing; a request says the word, or null."""
    values = [spec.shown(spec.default) for _, spec in flat(3)]
    assert api.read_args(values) == api.read_args(DEFAULTS) == Settings(co_models=(CoModel(),) * 3)
    for end in (None, ""):
        given = {"steps": "auto", "evaluations": "auto", "co_models": [{"gamma_end": end}]}
        assert api.read_args([given]) == Settings(co_models=(CoModel(),))


def test_a_pages_picture_becomes_a_text_that_opens_again() -> None:
    from PIL import Image

    picture = Image.new("RGB", (3, 2), (1, 2, 3))
    keys = [(slot, spec.name) for slot, spec in flat(3)]
    values = list(DEFAULTS)
    for index, (_, spec) in enumerate(flat(3)):
        values[index] = None if isinstance(spec, PictureSpec) else values[index]
    assert api.read_args(values).co_models == (CoModel(),) * 3
    for key in ((0, "image"), (2, "image"), (3, "mask")):
        values[keys.index(key)] = picture
    settings = api.read_args(values)
    texts = (settings.main_adapter.image, settings.co_models[1].image, settings.co_models[2].mask)
    for text in (*texts, f"data:image/png;base64,{as_text(picture)}"):
        assert open_picture(text, "AMDM").tobytes() == picture.tobytes()
    assert settings.co_models[0].image == settings.co_models[1].mask == ""
    assert fingerprint(settings.main_adapter.image) == fingerprint(as_text(picture)) != fingerprint("")


@pytest.mark.parametrize("args", [[], (), None])
def test_a_host_that_gives_no_arguments_asks_for_nothing(args: Any) -> None:
    """Some give a script none in their first seconds."""
    assert api.read_args(args) == Settings()


def test_a_cleared_field_of_a_slot_ends_nothing() -> None:
    assert api.read_args([None if slot else spec.default for slot, spec in flat(3)]) == api.read_args(DEFAULTS)
    assert api.read_args([{"steps": None, "co_models": [{"gamma": None}]}]) == Settings(co_models=(CoModel(),))


@pytest.mark.parametrize("given", [{"image": None}, True, 5, 0.5, ["a", "b"], b"PNG", object(), {"x" * 3_000_000: 1}])
def test_what_is_no_picture_in_a_plain_list_is_named_by_its_setting(given: Any) -> None:
    keys = [(slot, spec.name) for slot, spec in flat(3)]
    for key, path in (((0, "image"), "image of main_adapter"), ((3, "mask"), "mask of co-model 3")):
        values = list(DEFAULTS)
        values[keys.index(key)] = given
        with pytest.raises(AmdmError) as caught:
            api.read_args(values)
        assert str(caught.value).startswith(f'AMDM: "{path}" must be a picture, in the API a picture file as base64')
        assert len(str(caught.value)) <= 500


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([True], "one object with names"),
        (["AMDM", *DEFAULTS[1:]], '"enabled"'),
        ([{"stepss": 5}], '"stepss" is not a setting'),
        ([{"co_models": [{"gamma": "much"}]}], '"gamma of co-model 1"'),
        ([{"evaluations": "some"}], '"evaluations" must be a whole number or "auto"'),
        ([{"co_models": [{"region": [[0, 0, 2, 1]]}]}], '"region of co-model 1" has a row 1'),
        ([[{"enabled": True}]], "one object with names"),
    ],
)
def test_what_cannot_be_read_is_named(args: list[Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        api.read_args(args)


@pytest.fixture
def client() -> Any:
    """Requests to the routes of a fake WebUI; `client.host` is that WebUI."""
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    def start(host: FakeHost) -> Any:
        app = fastapi.FastAPI()
        api.register(host)
        host.fire("app_started", None, app)  # None: a WebUI without a page
        return TestClient(app)

    return start


def test_the_routes(client: Any) -> None:
    host = FakeHost()
    requests = client(host)
    assert requests.get("/amdm/v1/version").json() == {"version": __version__, "host": "fake"}
    assert requests.get("/amdm/v1/schema").json() == Settings.schema()
    models = requests.get("/amdm/v1/models").json()
    assert models["adapters"] == list(ADAPTERS)
    assert {k: models[k] for k in ("checkpoints", "loaded")} == {
        "checkpoints": list(TITLES),
        "loaded": [{"checkpoint": "<b>eta</b>", "bytes": 2_100_000_000}, {"adapter": ADAPTERS[0], "bytes": 44_000_000}],
    }
    assert requests.post("/amdm/v1/unload").json() == {"unloaded": 2, "bytes": 2_144_000_000}
    assert requests.get("/amdm/v1/models").json()["loaded"] == []
    assert requests.get("/amdm/v1/unload").status_code == 405
    documented = requests.get("/openapi.json").json()["paths"]
    assert set(documented) == {f"/amdm/v1/{name}" for name in ("version", "schema", "models", "unload")}


def test_the_webuis_login_guards_every_route(client: Any) -> None:
    from fastapi import Depends, HTTPException

    def refuse() -> None:
        raise HTTPException(401)

    host = FakeHost()
    host.auth = [Depends(refuse)]
    requests = client(host)
    assert [requests.get(f"/amdm/v1/{name}").status_code for name in ("version", "schema", "models")] == [401] * 3
    assert requests.post("/amdm/v1/unload").status_code == 401
    assert host.pool


def test_there_are_no_routes_where_the_webui_has_no_api(client: Any) -> None:
    host = FakeHost()
    host.api = False
    requests = client(host)
    assert requests.get("/openapi.json").json()["paths"] == {}
    assert requests.get("/amdm/v1/models").status_code == 404


def test_a_file_whose_name_is_no_text_is_listed_all_the_same(client: Any) -> None:
    """Python reads what is not UTF-8 in a name as lone surrogates, which UTF-8 cannot say."""
    host, odd = FakeHost(), "ip-adapter_\udce9.safetensors"
    host.titles, host.adapters = [odd], [odd, "é"]
    host.pool = [InMemory("checkpoint", odd, 1)]
    assert client(host).get("/amdm/v1/models").json() == {
        "checkpoints": ["ip-adapter_?.safetensors"],
        "adapters": ["ip-adapter_?.safetensors", "é"],
        "loaded": [{"checkpoint": "ip-adapter_?.safetensors", "bytes": 1}],
    }


LOGINS = {"me": "secret", "you": "a:b", "odd\udce9": "x"}
LETTING_IN = [("me", "secret"), ("you", "a:b")]


REFUSED = [*(None, ("me", "other"), ("me", ""), ("me", "a:b"), ("nobody", "secret"), ("nobody", ""), ("ME", "secret"))]


@pytest.mark.parametrize(
    ("login", "status"), [*((login, 401) for login in REFUSED), *((login, 200) for login in LETTING_IN)]
)
def test_a_login_is_a_name_and_its_own_password(client: Any, login: tuple[str, str] | None, status: int) -> None:
    from lib_amdm.hosts.common.login import guard

    host = FakeHost()
    host.auth = guard(LOGINS)
    answer = client(host).get("/amdm/v1/version", auth=login)
    assert answer.status_code == status
    assert answer.headers.get("WWW-Authenticate") == ("Basic" if status == 401 else None)


def test_without_logins_nobody_is_asked() -> None:
    pytest.importorskip("fastapi")
    from lib_amdm.hosts.common.login import guard

    assert guard({}) == []


def test_options_have_defaults_before_they_are_registered_and_on_error_is_read() -> None:
    host = FakeHost()
    assert (options.slots(host), options.pool_limit(host), options.of_pass(host)) == (3, 2, PassOptions())
    for choice in ("go on without AMDM", "stop", None):
        assert options.of_pass(FakeHost(amdm_on_error=choice)).continues_on_error == (choice == "go on without AMDM")
    for small in (True, False, None):
        assert options.of_pass(FakeHost(amdm_small_autoencoders=small)).small_autoencoders is (small is True)


@pytest.mark.parametrize(
    ("value", "slots", "pool_limit"), [(0, 1, 0), (1, 1, 1), (4.0, 4, 4), (99, 10, 10), (None, 3, 2), ("x", 3, 2)]
)
def test_options_are_kept_in_range(value: Any, slots: int, pool_limit: int) -> None:
    host = FakeHost(amdm_slots=value, amdm_pool_limit=value)
    assert (options.slots(host), options.pool_limit(host)) == (slots, pool_limit)


def test_the_section_of_the_settings_page() -> None:
    pytest.importorskip("gradio")
    host = FakeHost()
    options.register(host)
    assert host.added == {}
    host.fire("ui_settings")
    assert {name: option["default"] for name, option in host.added.items()} == {
        "amdm_slots": 3,
        "amdm_pool_limit": 2,
        "amdm_on_error": "stop",
        "amdm_small_autoencoders": False,
    }
    for option in host.added.values():
        assert option["section"] == ("amdm", "AMDM")
        assert option["component"](value=option["default"], **option["args"]).value == option["default"]


@pytest.mark.parametrize("kind", [protocol.Lists, protocol.Callbacks], ids=lambda kind: kind.__name__)
def test_it_has_the_protocols_functions_with_their_parameters(kind: type) -> None:
    wanted = functions(kind)
    theirs = {name: parameters(each) for name, each in functions(FakeHost).items() if name in wanted}
    assert theirs == {name: parameters(each) for name, each in wanted.items()}


def test_what_is_in_memory_has_its_types() -> None:
    host = FakeHost()
    for entry in (*host.loaded(), *host.unload()):
        assert isinstance(entry, protocol.InMemory)
