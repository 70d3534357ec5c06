"""LoRAs in a slot's prompt, on every WebUI: the words of the prompt, and the list of files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

from modules import extra_networks

from ...errors import AmdmError
from ...files.pickles import Refused
from ...files.state import FileState


class Named(NamedTuple):
    """One `<lora:name:te:unet:dyn>` of a prompt."""

    name: str
    te: float
    unet: float
    dyn: int | None

    @classmethod
    def of(cls, params: Any) -> Named:
        """Read the parts, by position or by name, as the host does."""
        places, names = params.positional, params.named
        te = float(names.get("te", places[1] if len(places) > 1 else 1.0))
        unet = float(names.get("unet", places[2] if len(places) > 2 else te))
        dyn = names.get("dyn", places[3] if len(places) > 3 else None)
        return cls(places[0], te, unet, None if dyn is None else int(dyn))


class NamedLoras:
    """The LoRAs that a slot's prompt names, found in the host's list."""

    def __init__(self, named: Sequence[Any], error_prefix: str) -> None:
        """Find the LoRAs; AmdmError names one that cannot be used."""
        self.error_prefix = error_prefix
        self.host = _host_networks(error_prefix)
        for params in named:
            self._refuse_schedule(params)
        try:
            self.named = [Named.of(params) for params in named]
        except (ValueError, IndexError) as error:
            raise AmdmError(
                f"{error_prefix}: its prompt has a LoRA that cannot be read ({error}); write <lora:name:weight>."
            ) from error
        self.on_disk = [self._find(lora.name) for lora in self.named]
        states = (FileState.of(entry.filename) for entry in self.on_disk)
        self.key = tuple(zip(self.named, states))

    def _refuse_schedule(self, params: Any) -> None:
        for weight in (*params.positional[1:], *params.named.values()):
            if "@" in weight:
                raise self.error(
                    params.positional[0],
                    f'has weights that change during the picture ("{weight}"), which co-models do not take; write one '
                    "weight, and let steps decide for how long it acts",
                )

    def _find(self, name: str) -> Any:
        host = self.host
        for attempt in range(2):
            hidden = name.lower() in host.forbidden_network_aliases
            entry = (host.available_networks if hidden else host.available_network_aliases).get(name)
            if entry is not None:
                return entry
            if attempt == 0:
                # like the host, look once more for files added after its start
                host.update_available_networks_by_names([name])
        raise AmdmError(
            f'{self.error_prefix}: "{name}" is not in the WebUI\'s list of LoRAs; refresh it or correct the name.'
        )

    def error(self, name: str, what: str) -> AmdmError:
        return AmdmError(f'{self.error_prefix}: the LoRA "{name}" {what}.')

    def unreadable(self, name: str, error: Exception) -> AmdmError:
        reason = str(error) if isinstance(error, Refused) else type(error).__name__
        return self.error(name, f"cannot be read ({reason}); download it again or choose another")

    def wrong_family(self, name: str) -> AmdmError:
        return self.error(name, "fits none of the checkpoint's layers; choose one made for its kind")

    def mismatch(self, name: str, layer: str, why: object) -> AmdmError:
        reason = " ".join(str(why).split())[:100]
        return self.error(name, f"does not fit {layer} ({reason}); choose one made for the checkpoint's kind")


def _host_networks(error_prefix: str) -> ModuleType:
    """Return the module of the host's own Lora extension that knows the files."""
    registered = extra_networks.extra_network_registry.get("lora")
    networks = getattr(sys.modules.get(type(registered).__module__), "networks", None)
    if networks is None:
        raise AmdmError(
            f"{error_prefix}: its prompt names a LoRA, but the WebUI's own Lora extension is switched off; switch it "
            "on, or remove the LoRA from the co-model's prompt."
        )
    return networks
