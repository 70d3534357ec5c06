"""The ways to draw a subject with two checkpoints: either one alone, AMDM with several settings, a refiner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lib_amdm.comodels.prompts import prompt_of
from lib_amdm.errors import AmdmError
from lib_amdm.settings import MAIN_CHECKPOINT, CoModel, Settings, specs

from ..checkpoints import by_file
from ..drawing import Order
from ..runs import Wanted
from .subjects import Subject

PICTURES = "pictures"
"""The folder of the pictures, in the page's."""
Key = tuple[str, Subject]
"""A way's caption, and a subject."""
SHORT_NAMES = {"steps": "K", "evaluations": "E"}
"""Settings that the page calls as the paper does."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints, and what all pictures of them have in common."""

    main: str
    co: str
    settings: Settings
    """AMDM's, with one slot: the co-model."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """Fields of an `Order`, such as its sampler."""

    @property
    def slot(self) -> CoModel:
        return self.settings.co_models[0]

    @property
    def co_alone(self) -> str:
        """The checkpoint that draws what the co-model draws by itself."""
        return self.main if self.co == MAIN_CHECKPOINT else self.co


@dataclass(frozen=True)
class Way:
    """One way to draw."""

    caption: str
    checkpoint: str
    alone: bool
    """True if one checkpoint draws by itself."""
    settings: Settings | None = None
    """AMDM's; None for a checkpoint without it."""
    refiner: tuple[str, float] | None = None
    as_co_model: bool = False
    """True for the co-model alone, with its prompts and guidance."""

    def order(self, pair: Pair, subject: Subject) -> Order:
        fields = {**pair.common, "prompt": subject.prompt, "seed": subject.seed}
        if self.as_co_model:
            fields["prompt"] = subject.prompt_for_co
            fields["negative_prompt"] = prompt_of(pair.slot.negative_prompt, pair.common.get("negative_prompt", ""))
            if pair.slot.cfg_scale:
                fields["cfg_scale"] = pair.slot.cfg_scale
        settings = self.settings
        if settings and settings.co_models:
            settings = replace(settings, co_models=(replace(settings.co_models[0], prompt=subject.co_prompt),))
        fields["settings"] = settings.to_dict() if settings else None
        return Order(checkpoint=self.checkpoint, refiner=self.refiner, **fields)


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

    changes: such as "gamma=0.7, steps=5".
    unchanged: the caption of AMDM as it is.
    """
    settings = pair.settings
    main, co = names_of(pair.main, pair.co_alone)
    co_alone = f"{co} alone, with the second prompt" if pair.co == MAIN_CHECKPOINT else f"{co} alone"
    with_its_adapter = replace(settings, main_adapter=pair.slot.adapter_settings)
    of_pair = [
        Way(f"{main} alone", pair.main, True, _without_co_models(settings)),
        Way(co_alone, pair.co_alone, True, _without_co_models(with_its_adapter), as_co_model=True),
        Way(f"AMDM, {unchanged}", pair.main, False, settings),
    ]
    for change in changes:
        changed, caption = _changed(settings, change)
        of_pair.append(Way(f"AMDM, {caption}", pair.main, False, changed))
    for share in refiners:
        caption = f"refiner: {co} from {share:g} of the steps on"
        of_pair.append(Way(caption, pair.main, False, _without_co_models(settings), (pair.co_alone, share)))
    captions = [way.caption for way in of_pair]
    twice = next((caption for caption in captions if captions.count(caption) > 1), None)
    if twice:
        raise AmdmError(f'"{twice}" is there twice; leave one of them out.')
    return of_pair


def wanted(pair: Pair, all_ways: Sequence[Way], subjects: Sequence[Subject], place: str) -> dict[Key, Wanted]:
    """Return the picture of each way and subject, in the order to draw them.

    The ways of one main checkpoint take turns: it is loaded once, and a machine that slows down slows all of them.
    Pictures are named by their orders and the place that draws them.
    """
    groups: dict[object, list[Way]] = {}
    for way in all_ways:
        groups.setdefault((way.checkpoint, way.refiner), []).append(way)
    pictures = {}
    for group in groups.values():
        for subject in subjects:
            for way in group:
                order = way.order(pair, subject)
                identity = {"place": place, **by_file(asdict(order))}
                digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
                pictures[way.caption, subject] = Wanted(f"{PICTURES}/{digest[:16]}", order, way.caption)
    return pictures


def _without_co_models(settings: Settings) -> Settings | None:
    """Return the settings without co-models; None if nothing is left of them."""
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
    places |= {f"{name} of co-model 1": (slot, name) for name in of_slot}
    words = []
    for part in change.split(","):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals or name not in places:
            raise AmdmError(
                f'--try "{change}" has "{part.strip()}" in it, but it takes settings and their values, such as '
                f'"gamma=0.7, steps=5"; the settings are {", ".join(dict.fromkeys([*of_all, *of_slot]))}, and '
                '"eta of co-model 1".'
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
