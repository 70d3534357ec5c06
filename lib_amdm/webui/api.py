"""AMDM in the WebUI's API: the settings in a request, and a few routes in addition to the WebUI's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..files.pictures import as_text
from ..hosts.protocol import Host
from ..settings import MAX_SLOTS, PictureSpec, Settings, Spec, flat, full_name

PREFIX = "/amdm/v1"


def read_args(args: Sequence[Any]) -> Settings:
    """Read the settings in a script's arguments: one object with names (the rest is ignored), or a plain list.

    The WebUI completes a list from a request with the panel's defaults, so these may follow an object. In the
    page's list pictures are the values of their controls, and a cleared number is None or an empty text:
    both mean its default. Some hosts give a script no arguments in their first seconds.
    """
    if not args:
        return Settings()
    if isinstance(args[0], Mapping):
        return Settings.from_dict(args[0])
    # a list of a wrong length is refused as a whole
    read = [_of_control(slot, spec, value) for (slot, spec), value in zip(flat(MAX_SLOTS), args)]
    return Settings.from_list([*read, *args[len(read) :]])


def _of_control(slot: int, spec: Spec, value: Any) -> Any:
    if isinstance(spec, PictureSpec):
        return as_text(value, full_name(slot, spec))
    is_number = spec.type in (int, float)
    return None if is_number and isinstance(value, str) and not value.strip() else value


def register(host: Host) -> None:
    """Add AMDM's routes once the WebUI's server has started, with a page or without one, if it has an API."""
    host.on("app_started", lambda _demo, app: _add_routes(host, app))


def _add_routes(host: Host, app: Any) -> None:
    if not host.has_api():
        return

    def version() -> dict:
        return {"version": __version__, "host": host.name}

    def models() -> dict:
        return _encodable(
            {
                "checkpoints": host.checkpoint_titles(),
                "adapters": host.adapter_titles(),
                "loaded": [{entry.kind: entry.name, "bytes": entry.size} for entry in host.loaded()],
            }
        )

    def unload() -> dict:
        entries = host.unload()
        return {"unloaded": len(entries), "bytes": sum(entry.size for entry in entries)}

    def add(method: str, name: str, endpoint: Callable[[], dict], summary: str) -> None:
        # no response model: which kinds of annotation make one differs between the hosts' versions of FastAPI
        app.add_api_route(
            f"{PREFIX}/{name}",
            endpoint,
            methods=[method],
            summary=summary,
            tags=["AMDM"],
            dependencies=host.api_auth(),
            response_model=None,
        )

    add("GET", "version", version, "AMDM's version, and the WebUI it runs in")
    add("GET", "schema", Settings.schema, "The settings that alwayson_scripts takes under AMDM, as a JSON Schema")
    add("GET", "models", models, "The checkpoints and adapters that can be named, and what is in memory")
    add("POST", "unload", unload, "Take all co-models out of memory")


def _encodable(body: Any) -> Any:
    """Replace characters that UTF-8 cannot encode by question marks: a file's name may be in another encoding."""
    if isinstance(body, str):
        return body.encode(errors="replace").decode()
    if isinstance(body, Mapping):
        return {key: _encodable(value) for key, value in body.items()}
    return [_encodable(item) for item in body] if isinstance(body, list) else body
