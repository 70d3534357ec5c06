"""The ways to draw a subject with two checkpoints: either alone, AMDM with some settings, a refiner."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT, CoModel, Settings, specs

from ..drawing import Order
from .subjects import Subject

SHORT_NAMES = {"steps": "K", "evaluations": "E"}
"""Settings that the page calls as the paper does."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints, and what all pictures of them have in common.

    settings: AMDM's, with one slot, the co-model. common: fields of an `Order`, such as its sampler.
    """

    main: str
    co: str
    settings: Settings
    common: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slot(self) -> CoModel:
        return self.settings.co_models[0]

    @property
    def co_alone(self) -> str:
        """The checkpoint that draws what the co-model draws by itself."""
        return self.main if self.co == MAIN_CHECKPOINT else self.co


@dataclass(frozen=True)
class Way:
    """One way to draw. settings: AMDM's, None for a checkpoint without it. models: the checkpoints that it runs."""

    caption: str
    checkpoint: str
    models: tuple[str, ...]
    settings: Settings | None = None
    refiner: tuple[str, float] | None = None
    as_co_model: bool = False

    @property
    def alone(self) -> bool:
        """True where one checkpoint draws by itself."""
        return len(self.models) == 1

    def order(self, pair: Pair, subject: Subject, **changes: Any) -> Order:
        """Return what a drawer is asked for."""
        fields = {**pair.common, "prompt": subject.prompt, "seed": subject.seed}
        if self.as_co_model:
            fields["prompt"] = subject.prompt_for_co
            fields["negative_prompt"] = pair.slot.negative_prompt or pair.common.get("negative_prompt", "")
            if pair.slot.cfg_scale:
                fields["cfg_scale"] = pair.slot.cfg_scale
        settings = self.settings
        if settings and settings.co_models:
            settings = replace(settings, co_models=(replace(settings.co_models[0], prompt=subject.co_prompt),))
        fields["settings"] = settings.to_dict() if settings else None
        return Order(checkpoint=self.checkpoint, refiner=self.refiner, **{**fields, **changes})


def new_pair(main: str, co: str, common: Mapping[str, Any]) -> Pair:
    """Return a pair with AMDM's defaults."""
    return Pair(main, co, Settings(enabled=True, co_models=(CoModel(checkpoint=co),)), common)


def usual_changes(steps: int) -> list[str]:
    """Return the settings that are tried by default, for pictures of so many steps."""
    fewer = max(steps // 4, 1)
    counts = dict.fromkeys([f"steps={fewer}", f"steps={steps}"])
    return ["gamma=0.3", "gamma=0.7", *counts, "evaluations=2", "evaluations=8"]


def ways(pair: Pair, changes: Sequence[str], refiners: Sequence[float], unchanged: str) -> list[Way]:
    """Return each checkpoint alone, AMDM as it is and with each change, and the refiner at each share of the steps.

    changes: such as "gamma=0.7, steps=5". unchanged: the caption of AMDM as it is.
    """
    both = (pair.main, pair.co_alone)
    settings = pair.settings
    main, co = names_of(*both)
    co_alone = f"{co} alone, told the second prompt" if pair.co == MAIN_CHECKPOINT else f"{co} alone"
    with_its_adapter = replace(settings, main_adapter=pair.slot.adapter_settings)
    found = [
        Way(f"{main} alone", pair.main, both[:1], _without_co_models(settings)),
        Way(co_alone, pair.co_alone, both[1:], _without_co_models(with_its_adapter), as_co_model=True),
        Way(f"AMDM, {unchanged}", pair.main, both, settings),
    ]
    for change in changes:
        changed, caption = _changed(settings, change)
        found.append(Way(f"AMDM, {caption}", pair.main, both, changed))
    for share in refiners:
        caption = f"refiner: {co} from {share:g} of the steps on"
        found.append(Way(caption, pair.main, both, _without_co_models(settings), (pair.co_alone, share)))
    captions = [way.caption for way in found]
    twice = next((caption for caption in captions if captions.count(caption) > 1), None)
    if twice:
        raise AmdmError(f'"{twice}" is asked for twice; leave one of them out.')
    return found


def _without_co_models(settings: Settings) -> Settings | None:
    """Return the settings without co-models; None where nothing is left of them."""
    left = replace(settings, co_models=())
    return left if left.runs else None


def _changed(settings: Settings, change: str) -> tuple[Settings, str]:
    """Return the settings after a change such as "gamma=0.7, steps=5", and the page's words for it."""
    values = settings.to_dict()
    of_all = [spec.name for spec in specs(Settings) if spec.name not in ("enabled", "compare")]
    of_slot = [spec.name for spec in specs(CoModel) if spec.name not in ("enabled", "checkpoint", "prompt")]
    slot = values["co_models"][0]
    # a name that both have is that of all
    places = {name: (slot, name) for name in of_slot} | {name: (values, name) for name in of_all}
    places |= {f"co_models[0].{name}": (slot, name) for name in of_slot}
    words = []
    for part in change.split(","):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or name not in places:
            raise AmdmError(
                f'--try "{change}" has "{part.strip()}" in it, but it takes settings and their values, such as '
                f'"gamma=0.7, steps=5"; the settings are {", ".join(dict.fromkeys([*of_all, *of_slot]))}, and '
                "co_models[0].eta."
            )
        holder, key = places[name]
        holder[key] = _value(text)
        words.append(f"{SHORT_NAMES.get(name, name)} {text}")
    return Settings.from_dict(values), ", ".join(words)


def _value(text: str) -> Any:
    """Read a number or true and false as such, and anything else as a text."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return text


def names_of(main: str, co: str) -> tuple[str, str]:
    """Return two checkpoints' names without folder, suffix and hash, or the whole ones where these are the same."""
    one, other = _short_name(main), _short_name(co)
    return (main, co) if one == other and main != co else (one, other)


def _short_name(checkpoint: str) -> str:
    name = checkpoint.rpartition("/")[2].rpartition("\\")[2].partition(" [")[0]
    return name.removesuffix(".safetensors").removesuffix(".ckpt")
