"""Settings to start from: two of the user's own checkpoints, and the paper's own three experiments."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from ..hosts.protocol import Lists
from ..layout import EXAMPLE
from ..settings import MAIN_CHECKPOINT, NO_ADAPTER, AdapterSettings, CoModel, Settings
from . import fitting

TWO_CHECKPOINTS = "Two checkpoints"
INTERACT_DIFFUSION = "ext_interactdiff_v1.2.pth"
MIGC = "MIGC_SD14.ckpt"
IP_ADAPTER = "ip-adapter_sd15.safetensors"
_PATTERNS = {INTERACT_DIFFUSION: ("interact",), MIGC: ("migc",), IP_ADAPTER: ("ip-adapter_sd15", "ip-adapter")}
"""Parts of the names of a user's own files that can replace each of these, the best first."""


class Preset(NamedTuple):
    """An example. sampling_steps: what the WebUI's own "Sampling steps" must be for it."""

    name: str
    sampling_steps: int
    settings: Settings

    @property
    def advice(self) -> str:
        """A line about what else the example needs."""
        return (
            f"{self.name}: set Sampling steps to {self.sampling_steps}, the sampler to DDIM or Euler and the CFG scale "
            "to 7.5; draw 512x512 with an SD1.5 checkpoint, describe the scene of the layout in the prompt"
            + (", and choose the IP-Adapter's image." if any(_needs_image(s) for s in self.settings.co_models) else ".")
        )

    def with_files(self, listed: Iterable[str]) -> Settings:
        """Return the settings with the user's own files, if the list has suitable ones."""
        listed = list(listed)
        main = self.settings.main_adapter
        return replace(
            self.settings,
            main_adapter=replace(main, adapter=_listed(main.adapter, listed)),
            co_models=tuple(replace(s, adapter=_listed(s.adapter, listed)) for s in self.settings.co_models),
        )


def two_checkpoints(host: Lists) -> tuple[Settings, str]:
    """Return the settings that run one of the user's checkpoints with the main one, and what to do with them.

    A checkpoint that is known to share the main one's latents is preferred to one of unknown family, and that to one
    that is run through pixels. If there is none, it is the main one again, which needs another prompt.
    """
    others = fitting.others(host)
    chosen = next(iter([*others.sharing, *others.silent, *others.crossing]), MAIN_CHECKPOINT)
    settings = Settings(enabled=True, co_models=(CoModel(checkpoint=chosen),))
    if chosen != MAIN_CHECKPOINT:
        return settings, (
            f"{chosen} is run with the main checkpoint: choose any other instead, and press Generate. With compare "
            "switched on, each is drawn alone too; a higher gamma makes the co-model contribute more."
        )
    return settings, (
        "No other checkpoint in the list can be combined with the main one, so this runs the main one again: write "
        "another prompt into Co-model 1, and press Generate."
    )


def missing_files(settings: Settings, listed: Iterable[str]) -> list[str]:
    """Name the adapter files of these settings that are not in the list, and the folder for them."""
    wanted = [settings.main_adapter.adapter, *(slot.adapter for slot in settings.co_models)]
    known = {NO_ADAPTER, *listed}
    return [f"{name} is missing: put it into models/amdm and refresh the list." for name in wanted if name not in known]


def _needs_image(slot: CoModel) -> bool:
    return slot.adapter == IP_ADAPTER


def _listed(name: str, listed: list[str]) -> str:
    if name == NO_ADAPTER or name in listed:
        return name
    alike = (title for pattern in _PATTERNS[name] for title in listed if pattern in title.lower())
    return next(alike, name)


def _paper(eta: float, *co_models: CoModel) -> Settings:
    main = AdapterSettings(adapter=INTERACT_DIFFUSION, layout=EXAMPLE)
    return Settings(True, steps=3, evaluations=0, eta=eta, correction="paper", main_adapter=main, co_models=co_models)


def _migc(gamma: float, eta: float, until: float) -> CoModel:
    return CoModel(
        checkpoint=MAIN_CHECKPOINT,
        gamma=gamma,
        eta=eta,
        noise="independent",
        adapter=MIGC,
        until=until,
        layout="\n".join(line for line in EXAMPLE.splitlines() if ":" in line),
    )


def _ip_adapter(gamma: float, eta: float) -> CoModel:
    return CoModel(
        checkpoint=MAIN_CHECKPOINT, gamma=gamma, eta=eta, noise="independent", adapter=IP_ADAPTER, strength=0.8
    )


PRESETS = (
    Preset("Paper: InteractDiffusion + MIGC", 50, _paper(55, _migc(0.5, 45, 0.5))),
    Preset("Paper: InteractDiffusion + IP-Adapter", 10, _paper(55, _ip_adapter(0.45, 45))),
    Preset("Paper: InteractDiffusion + MIGC + IP-Adapter", 10, _paper(45, _migc(0.47, 40, 0.6), _ip_adapter(0.5, 35))),
)
