"""Fixtures for the tests on a real WebUI.

AMDM_A1111_DIR, AMDM_FORGE_DIR, AMDM_REFORGE_DIR and AMDM_NEO_DIR name the checkouts of WebUIs, their pinned
repositories included; AMDM_A1111_PYTHON and so on their interpreters, where these are not ``venv/bin/python`` in the
checkout. Every test runs on every WebUI that is named, and is skipped where none is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from . import checkpoints, flow_webui
from .hosts import HOSTS, Host
from .probed import OPTIONS, Probed
from .rehearsal import Rehearsal
from .webui_server import WebUI, make_checkpoints

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

Start = Callable[..., WebUI]


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", "needs(feature): skipped where a WebUI lacks it (tests/webui/hosts.py)")
    config.addinivalue_line("markers", "webui: needs a real WebUI (AMDM_A1111_DIR ...); starts servers, takes minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.webui)


NAMED = [name for name in sorted(HOSTS) if HOSTS[name].directory() is not None]
NONE = f"none of {', '.join(host.directory_variable for host in HOSTS.values())} names the folder of a real WebUI"


@pytest.fixture(scope="session", params=NAMED or [pytest.param("none", marks=pytest.mark.skip(reason=NONE))])
def webui_host(request: pytest.FixtureRequest) -> Host:
    """The WebUI under test."""
    return HOSTS[request.param]


@pytest.fixture(autouse=True)
def _here(request: pytest.FixtureRequest) -> None:
    """Skip what this WebUI does not have: a sampler, a scheduler, a feature."""
    if "webui_host" not in request.fixturenames:
        return
    webui_host: Host = request.getfixturevalue("webui_host")
    given = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    for kind, present in (("sampler", webui_host.samplers), ("scheduler", webui_host.schedulers)):
        if kind in given and given[kind] not in present:
            pytest.skip(f"{webui_host.name} has no {kind} {given[kind]}")
    needed = [mark.args[0] for mark in request.node.iter_markers("needs")]
    for feature in (given.get("feature"), given.get("start"), *needed):
        if feature in webui_host.lacks:
            pytest.skip(f"{webui_host.name}: {webui_host.lacks[feature]}")


@pytest.fixture(scope="session")
def checkpoint_dir(webui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small checkpoints for this WebUI; do not write into it.

    It is made once and kept beside pytest's numbered folders, until the recipe or the WebUI changes.
    """
    script = HERE / "checkpoints.py"
    key = f"{webui_host.directory()}\n{webui_host.python()}\n".encode() + script.read_bytes()
    folder = tmp_path_factory.getbasetemp().parent / f"checkpoints-{hashlib.sha256(key).hexdigest()[:12]}"
    complete = folder / "complete"
    with _locked(folder.with_suffix(".lock")):
        if not complete.exists():
            _make_checkpoints(webui_host, script, folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def deeper(webui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an SD1.5 with two levels, which is made once as the others are."""
    script = HERE / "two_levels.py"
    key = f"{webui_host.directory()}\n{webui_host.python()}\n".encode() + script.read_bytes()
    folder = tmp_path_factory.getbasetemp().parent / f"deeper-{hashlib.sha256(key).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    file = folder / "alpha.safetensors"
    with _locked(folder.with_suffix(".lock")):
        if not file.exists():
            make_checkpoints(webui_host, script, folder)
    return file


@pytest.fixture(scope="session")
def flow_models(webui_host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the flow checkpoints; Forge Neo makes them once, until the recipe or the WebUI changes."""
    if not webui_host.flow_families:
        pytest.skip(f"{webui_host.name} has no flow models that AMDM runs")
    maker = HOSTS["neo"]
    if maker.directory() is None:
        pytest.skip(f"the flow checkpoints are made by Forge Neo, and {maker.directory_variable} does not name one")
    key = f"{maker.directory()}\n{maker.python()}\n".encode() + flow_webui.SCRIPT.read_bytes()
    folder = tmp_path_factory.getbasetemp().parent / f"flow-{hashlib.sha256(key).hexdigest()[:12]}"
    folder.mkdir(exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        names = [f"{name}-{letter}" for name in webui_host.flow_families for letter in "ab"]
        return flow_webui.make(maker, folder, [*names, flow_webui.SDXL])


@pytest.fixture(scope="session")
def takes_bundled(webui_host: Host) -> None:
    """The bundled checkpoints are small ones."""
    if webui_host.sizes != "small":
        pytest.skip(f"{webui_host.name} does not know models as small as the bundled ones")


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    import fcntl

    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_checkpoints(host: Host, script: Path, folder: Path) -> None:
    make_checkpoints(host, script, folder, "--sizes", host.sizes)
    assert (folder / f"{checkpoints.NAMES[0]}.safetensors").exists()


@pytest.fixture(scope="session")
def start_webui(webui_host: Host, checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start servers of one's own: ``start_webui(page=True, arguments=[...])``; they end with the session.

    The keywords are those of :class:`WebUI`. The extension is there unless ``extension=None`` is passed.
    """
    started: list[WebUI] = []

    def start(**keywords: Any) -> WebUI:
        common: dict[str, Any] = {
            "checkpoints": checkpoint_dir,
            "extension": REPOSITORY,
            "card": Rehearsal.wanted(),
        }
        server = WebUI(webui_host, tmp_path_factory.mktemp("webui"), **{**common, **keywords})
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def webui(start_webui: Start) -> WebUI:
    """A server with the extension, shared by the session: leave its settings as they were."""
    return start_webui()


@pytest.fixture(scope="session")
def bare_webui(start_webui: Start) -> WebUI:
    """The same server without the extension: what the WebUI draws by itself."""
    return start_webui(extension=None)


@pytest.fixture(scope="session")
def probed(start_webui: Start) -> Probed:
    """A server with the extension and the probe, shared by the session: leave its settings as they were."""
    return Probed(start_webui(probe=True, options=OPTIONS))
