"""The settings that a slot's adapter uses, by the kind of its file: no others are shown, run or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..adapters import kinds
from ..hosts.protocol import Lists
from ..settings import NO_ADAPTER, AdapterSettings, AdapterSpec, CoModel, LayoutSpec, PictureSpec, Settings, Spec, specs

Holder = TypeVar("Holder", AdapterSettings, CoModel)


def takes(host: Lists, adapter: str | None) -> Callable[[Spec], bool]:
    """Return a test for the adapter settings that a file of this name uses.

    Without an adapter that is only the choice of one; a file that cannot be read may use all.
    """
    if adapter in (None, "", NO_ADAPTER):
        return lambda spec: isinstance(spec, AdapterSpec)
    info = host.adapter_info(adapter)
    if info is None:
        return lambda spec: True
    image = kinds.takes_image(info)
    return lambda spec: image if isinstance(spec, PictureSpec) else not (image and isinstance(spec, LayoutSpec))


def used_alone(host: Lists, settings: Settings) -> Settings:
    """Return the settings with the default instead of every value that no adapter uses."""

    def of(holder: Holder) -> Holder:
        taken = takes(host, holder.adapter)
        idle = {spec.attribute: spec.default for spec in specs(AdapterSettings) if not taken(spec)}
        return replace(holder, **idle)

    return replace(settings, main_adapter=of(settings.main_adapter), co_models=tuple(map(of, settings.co_models)))
