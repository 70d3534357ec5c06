"""The one definition of AMDM's settings: panel, infotext, X/Y/Z axes and API schema derive from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from .errors import clipped, one_sentence, short
from .layout import Layout, LayoutError, boxes_of, is_list

NO_CHECKPOINT = "None"
MAIN_CHECKPOINT = "main"
NO_ADAPTER = "None"
AUTO = -1
"""The number that "auto" stands for: chosen for each picture."""
PICTURES = ("image", "mask")
"""The settings that are a picture: base64 in the API, nothing that an infotext can hold."""
MAX_SLOTS = 10
MAIN_ADAPTER_HELP = (
    "An adapter on the main model, in all its steps or its own share of them, with or without co-models."
)


class SettingsError(ValueError):
    """A setting that cannot be used: one sentence that names it and the remedy."""

    def __init__(self, told: str) -> None:
        super().__init__(one_sentence(told))


@dataclass(frozen=True)
class Spec:
    """What the panel, the infotext and the API need to know of one setting beside its default.

    `name` is the setting's name in the API, `label` its caption in the panel and (after "AMDM") in the infotext.
    """

    name: str
    label: str
    help: str
    type: type
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    lines: int = 1
    advanced: bool = False
    terse: bool = True  # left out of the infotext while it stands at its default

    def check(self, value: Any, path: str) -> Any:
        """`value` as this setting's own type; SettingsError names `path` and says what would do.

        None is the default: a page's number field holds it once a user has cleared it.
        """
        return self.default if value is None else self._check(value, path)

    def _check(self, value: Any, path: str) -> Any:
        fits = isinstance(value, self.type) and not (self.type is not bool and isinstance(value, bool))
        if not fits and self.type is float:
            fits = isinstance(value, int) and not isinstance(value, bool)
        if not fits and self.type is int:
            fits = isinstance(value, float) and value.is_integer()
        if not fits:
            raise SettingsError(
                f'AMDM: "{path}" must be {_TYPE_WORDS[self.type]}, but it is {short(value)}; change it.'
            )
        if self.choices and value not in self.choices:
            raise SettingsError(
                f'AMDM: "{path}" must be one of {", ".join(self.choices)}, but it is {short(value)}; change it.'
            )
        if self.minimum is not None and not self.minimum <= value <= self.maximum:
            span = f"{self.minimum:g} to {self.maximum:g}"
            raise SettingsError(f'AMDM: "{path}" must be from {span}, but it is {short(value)}; change it.')
        return self.type(value)  # only now: a whole number may be too large for a float

    def schema(self) -> dict[str, Any]:
        """This setting as a JSON Schema property."""
        types = [_JSON_TYPES[self.type], "null"]
        told: dict[str, Any] = {"type": types, "description": self.help, "default": self.default}
        if self.choices:
            told["enum"] = [*self.choices, None]
        if self.minimum is not None:
            told |= {"minimum": self.minimum, "maximum": self.maximum}
        return told

    def shown(self, value: Any) -> Any:
        """`value` as a control of the panel has it."""
        return value


@dataclass(frozen=True)
class WordSpec(Spec):
    """A number, or a word that stands for what no number says: "auto", or an empty field.

    The page and an infotext have it as a text, the API as a number or the word.
    """

    word: str = ""
    meaning: Any = None

    @property
    def pattern(self) -> str:
        """What a text must be like: the word, in small letters or capitals, or a number."""
        word = "".join(f"[{letter}{letter.upper()}]" for letter in self.word)
        return rf"^\s*({word}|-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?)\s*$"

    def _check(self, value: Any, path: str) -> Any:
        if isinstance(value, str):
            if not re.search(self.pattern, value):
                other = f'"{self.word}"' if self.word else "empty"
                raise SettingsError(
                    f'AMDM: "{path}" must be {_TYPE_WORDS[self.type]} or {other}, but it is {short(value)}; change it.'
                )
            given = value.strip().lower()
            value = self.meaning if given == self.word else float(given)
        known = value is None or isinstance(value, (int, float))
        return self.meaning if known and value == self.meaning else super()._check(value, path)

    def schema(self) -> dict[str, Any]:
        """The number, or the word, or what it stands for; or the number as a text, whose range only `check` knows."""
        told = super().schema()
        number = {name: told.pop(name) for name in ("type", "minimum", "maximum")}
        other = {"enum": list(dict.fromkeys([self.word, self.meaning]))}
        return {**told, "anyOf": [number, other, {"type": "string", "pattern": self.pattern}]}

    def shown(self, value: Any) -> str:
        return self.word if value == self.meaning else _number(value)


class BoxesSpec(Spec):
    """Boxes without or with phrases: a text, or in the API also the list that it means."""

    def _check(self, value: Any, path: str) -> str:
        try:
            boxes = boxes_of(value)
        except LayoutError as error:
            raise SettingsError(f'AMDM: "{path}" {error}.') from error
        return value if isinstance(value, str) else "\n".join(" ".join(map(_number, box)) for box in boxes)

    def schema(self) -> dict[str, Any]:
        ends = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 4, "maxItems": 4}
        placed = {"type": "object", "properties": {"box": ends}, "required": ["box"]}
        return {**super().schema(), "type": ["string", "array", "null"], "items": {"anyOf": [ends, placed]}}


class LayoutSpec(Spec):
    """A layout: a text, or in the API also the list that it means."""

    def _check(self, value: Any, path: str) -> str:
        try:
            layout = Layout.read(value)
        except LayoutError as error:
            raise SettingsError(f'AMDM: "{path}" {error}.') from error
        return value if isinstance(value, str) else (json.dumps(layout.rows(), ensure_ascii=False) if layout else "")

    def schema(self) -> dict[str, Any]:
        number = {"type": "number", "minimum": 0, "maximum": 1}
        place = {"type": ["integer", "string"], "minimum": 0, "minLength": 1}
        words = {"type": "string", "minLength": 1}
        rows = [
            {"phrase": words, "box": {"type": "array", "items": number, "minItems": 4, "maxItems": 4}},
            {"subject": place, "action": words, "object": place},
        ]
        one_of = [
            {"type": "object", "properties": row, "required": list(row), "additionalProperties": False} for row in rows
        ]
        return {**super().schema(), "type": ["string", "array", "null"], "items": {"oneOf": one_of}}


def _number(value: float) -> str:
    """A number as a text: 0.5, 3."""
    return repr(value).removesuffix(".0")


_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _setting(name: str, label: str, help: str, default: Any, **more: Any) -> Any:
    spec = Spec(name, label, help, type(default), default, **more)
    return field(default=default, metadata={"spec": spec})


_ADAPTER = Spec(
    "adapter",
    "adapter",
    "An adapter's file on this model: IP-Adapter, InteractDiffusion, GLIGEN or MIGC, told apart by what is in it.",
    str,
    NO_ADAPTER,
)
_STRENGTH = Spec(
    "strength",
    "adapter strength",
    "How much the adapter does: 0 = nothing.",
    float,
    1.0,
    minimum=0.0,
    maximum=2.0,
    step=0.05,
)
_UNTIL = Spec(
    "until",
    "adapter until",
    "In which share of the sampling steps the adapter works, from the first step on: 0 = in none, 1 = in all.",
    float,
    1.0,
    minimum=0.0,
    maximum=1.0,
    step=0.01,
)
_STEPS = WordSpec(
    "steps",
    "steps",
    "K: in how many of the first sampling steps the models are run together; then the main one goes on alone. "
    "auto = chosen for the picture's size, the sampler and its schedule.",
    int,
    AUTO,
    minimum=0,
    maximum=150,
    step=1,
    terse=False,
    word="auto",
    meaning=AUTO,
)
_EVALUATIONS = WordSpec(
    "evaluations",
    "evaluations",
    "In how many of these steps a co-model is evaluated; in the others its last difference from the main model is used "
    "again. 0 = in all of them; auto = 4, and 7 for samplers that add noise in every step.",
    int,
    AUTO,
    minimum=0,
    maximum=150,
    step=1,
    word="auto",
    meaning=AUTO,
)
_GAMMA_END = WordSpec(
    "gamma_end",
    "gamma end",
    "What gamma has come to, evenly, by the last of the steps; empty = it stays.",
    float,
    None,
    minimum=0.0,
    maximum=1.0,
    step=0.01,
)
_REGION = BoxesSpec(
    "region",
    "region",
    "Where in the picture this model speaks: a box in each line, x0 y0 x1 y1 from 0 to 1; empty = everywhere.",
    str,
    "",
    lines=2,
)
_IMAGE = Spec(
    "image", "adapter image", "The reference picture of an IP-Adapter; in the API a picture file as base64.", str, ""
)
_LAYOUT = LayoutSpec(
    "layout",
    "adapter layout",
    "Phrases with their boxes for GLIGEN, InteractDiffusion and MIGC, and actions for InteractDiffusion.",
    str,
    "",
    lines=4,
)


def _of(spec: Spec) -> Any:
    return field(default=spec.default, metadata={"spec": spec})


def _main(spec: Spec) -> Any:
    return _of(replace(spec, label=f"main {spec.label}", advanced=True))


@dataclass(frozen=True)
class AdapterSettings:
    """An adapter on a model, and what it is told: that of the main model (`main_adapter`), or a slot's."""

    adapter: str = _main(_ADAPTER)
    strength: float = _main(_STRENGTH)
    until: float = _main(_UNTIL)
    image: str = _main(_IMAGE)
    layout: str = _main(_LAYOUT)

    @property
    def used(self) -> bool:
        """Whether there is an adapter that can change anything."""
        return self.adapter not in ("", NO_ADAPTER) and self.strength > 0 and self.until > 0


@dataclass(frozen=True)
class CoModel:
    """One slot: a model that is run beside the main one during the first steps."""

    enabled: bool = _setting("enabled", "enabled", "Use this slot.", True)
    checkpoint: str = _setting(
        "checkpoint",
        "checkpoint",
        'The checkpoint that is run beside the main one; "main" runs the main checkpoint with this slot\'s prompt.',
        NO_CHECKPOINT,
        terse=False,
    )
    gamma: float = _setting(
        "gamma",
        "gamma",
        "How much of this model goes into the picture: 0 = nothing, 0.5 = half, 1 = it alone in the early steps.",
        0.5,
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        terse=False,
    )
    gamma_end: float | None = _of(_GAMMA_END)
    region: str = _of(_REGION)
    mask: str = _setting(
        "mask",
        "mask",
        "A picture that says where this model speaks: by its transparency, or else by its brightness (white = here); "
        "in the API a picture file as base64.",
        "",
    )
    feather: float = _setting(
        "feather",
        "feather",
        "How soft the region's edge is, as a share of the picture's shorter side: 0 = hard.",
        0.0,
        minimum=0.0,
        maximum=0.5,
        step=0.01,
    )
    eta: float = _setting(
        "eta",
        "eta",
        "After each mix, how far this model is pulled back to what it would have drawn: 0 = not at all, 1 = fully.",
        0.0,
        minimum=0.0,
        maximum=1000.0,
        step=0.01,
    )
    prompt: str = _setting(
        "prompt", "prompt", "This model's own prompt, with the WebUI's syntax; empty = the main prompt.", "", lines=2
    )
    negative_prompt: str = _setting(
        "negative_prompt",
        "negative prompt",
        "This model's own negative prompt; empty = the main negative prompt.",
        "",
        lines=2,
    )
    cfg_scale: float = _setting(
        "cfg_scale",
        "CFG scale",
        "How strictly this model follows its prompt; 0 = the main CFG scale.",
        0.0,
        minimum=0.0,
        maximum=30.0,
        step=0.5,
    )
    noise: str = _setting(
        "noise",
        "noise",
        "shared = start from the main model's noise, so the picture stays near the main model's own; "
        "independent = noise of its own, made from the image's seed.",
        "shared",
        choices=("shared", "independent"),
    )
    adapter: str = _of(_ADAPTER)
    strength: float = _of(_STRENGTH)
    until: float = _of(_UNTIL)
    image: str = _of(_IMAGE)
    layout: str = _of(_LAYOUT)

    @property
    def used(self) -> bool:
        """Whether this slot names something to run at all."""
        return self.enabled and self.checkpoint not in ("", NO_CHECKPOINT)

    @property
    def speaks(self) -> bool:
        """Whether this model has a share in the picture at any step."""
        return self.gamma > 0 or bool(self.gamma_end)

    @property
    def adapter_settings(self) -> AdapterSettings:
        """The adapter on this model, and what it is told."""
        return AdapterSettings(self.adapter, self.strength, self.until, self.image, self.layout)


@dataclass(frozen=True)
class Settings:
    """Everything AMDM can be told for one picture."""

    enabled: bool = _setting("enabled", "AMDM", "Run other models beside the main one in the first steps.", False)
    steps: int = _of(_STEPS)
    evaluations: int = _of(_EVALUATIONS)
    eta: float = _setting(
        "eta",
        "eta",
        "After each mix, how far the main model is pulled back to what it would have drawn: 0 = not at all, 1 = fully.",
        0.0,
        minimum=0.0,
        maximum=1000.0,
        step=0.01,
        terse=False,
    )
    which_pass: str = _setting(
        "pass",
        "pass",
        "In which pass of hires fix the models are run together; without hires fix there is only the first.",
        "first",
        choices=("first", "hires", "both"),
    )
    start: int = _setting(
        "start",
        "start",
        "The first step whose results are mixed; before it every model goes its own way. 0 = from the beginning.",
        0,
        minimum=0,
        maximum=149,
        step=1,
        advanced=True,
    )
    correction: str = _setting(
        "correction",
        "correction",
        "relative = eta is a share of the way back to the model's mean, 0 to 1; own = of the way to its own step, "
        "which keeps the noise; paper = eta is a distance in the paper's units (45, 55).",
        "relative",
        choices=("relative", "own", "paper"),
        advanced=True,
    )
    main_adapter: AdapterSettings = AdapterSettings()
    co_models: tuple[CoModel, ...] = ()

    @property
    def active(self) -> tuple[tuple[int, CoModel], ...]:
        """The slots that can change the picture, with their numbers from 1."""
        numbered = enumerate(self.co_models, 1)
        return tuple((number, slot) for number, slot in numbered if slot.used and slot.speaks)

    @property
    def mixes(self) -> bool:
        """Whether models are run together: there is a step to mix in, and a slot that changes the picture."""
        has_steps = self.steps == AUTO or self.steps > self.start
        return self.enabled and has_steps and bool(self.active)

    @property
    def runs(self) -> bool:
        """False where AMDM must not touch anything: off, or no models to run together and no main adapter."""
        return self.mixes or (self.enabled and self.main_adapter.used)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Settings:
        """Settings from the API's names; SettingsError names what is unknown, of a wrong type or out of range."""
        if not isinstance(given, Mapping):
            raise SettingsError(
                f"AMDM: the settings must be an object of names and values, but they are {short(given)}; send one."
            )
        slots = _or_default(given.get("co_models"), ())
        if not is_list(slots):
            raise SettingsError(
                'AMDM: "co_models" must be a list of objects, one for each co-model, but it is '
                f"{short(slots)}; change it."
            )
        if len(slots) > MAX_SLOTS:
            raise SettingsError(
                f'AMDM: "co_models" has {len(slots)} entries, but at most {MAX_SLOTS} can be run; use fewer.'
            )
        co_models = tuple(_build(CoModel, slot, f"co_models[{index}].") for index, slot in enumerate(slots))
        main_adapter = _build(AdapterSettings, _or_default(given.get("main_adapter"), {}), "main_adapter.")
        nested = ("main_adapter", "co_models")
        own = _build(cls, {name: value for name, value in given.items() if name not in nested}, "", beside=nested)
        return replace(own, main_adapter=main_adapter, co_models=co_models).checked()

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Settings:
        """Settings from the plain list the page sends (`flat` order)."""
        if not is_list(values):
            raise SettingsError(
                f"AMDM: the settings must be an object with names, or a plain list, but they are {short(values)}; "
                "send an object."
            )
        main, adapted, slot = specs(cls), specs(AdapterSettings), specs(CoModel)
        before = len(main) + len(adapted)
        count, left_over = divmod(len(values) - before, len(slot))
        if count < 0 or left_over:
            raise SettingsError(
                f"AMDM: a plain list needs {before} settings and {len(slot)} more for each slot, but it has "
                f"{len(values)} entries; send one object with names instead."
            )
        given = {spec.name: value for spec, value in zip(main, values)}
        given["main_adapter"] = {spec.name: value for spec, value in zip(adapted, values[len(main) :])}
        chunks = [values[before + index * len(slot) :][: len(slot)] for index in range(count)]
        given["co_models"] = [{spec.name: value for spec, value in zip(slot, chunk)} for chunk in chunks]
        return cls.from_dict(given)

    def to_dict(self) -> dict[str, Any]:
        """The settings by their API names; `from_dict` of it gives the same settings."""
        told = _values(self)
        told["main_adapter"] = _values(self.main_adapter)
        told["co_models"] = [_values(slot) for slot in self.co_models]
        return told

    def holder(self, slot: int, spec: Spec) -> Settings | AdapterSettings | CoModel:
        """What holds a setting of `flat`."""
        if slot:
            return self.co_models[slot - 1]
        return self.main_adapter if spec in specs(AdapterSettings) else self

    def value(self, slot: int, spec: Spec) -> Any:
        """The value of a setting of `flat`."""
        holder = self.holder(slot, spec)
        return getattr(holder, attribute(type(holder), spec.name))

    def checked(self) -> Settings:
        """These settings, or SettingsError where two of them do not fit each other."""
        if self.correction != "paper":
            etas = {"eta": self.eta} | {f"co_models[{i}].eta": s.eta for i, s in enumerate(self.co_models)}
            for path, eta in etas.items():
                if eta > 1:
                    raise SettingsError(
                        f'AMDM: "{path}" is {eta:g}, but with the {self.correction} correction it must be from 0 to 1; '
                        'lower it, or set "correction" to "paper" for the paper\'s units.'
                    )
        return self

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The settings as a JSON Schema."""
        properties = {spec.name: spec.schema() for spec in specs(cls)}
        properties["main_adapter"] = {
            **_object_schema(AdapterSettings),
            "type": ["object", "null"],
            "description": MAIN_ADAPTER_HELP,
            "default": {},
        }
        properties["co_models"] = {
            "type": ["array", "null"],
            "items": _object_schema(CoModel),
            "maxItems": MAX_SLOTS,
            "default": [],
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "AMDM",
            "type": "object",
            "additionalProperties": False,
            "properties": properties,
            "if": {"properties": {"correction": {"const": "paper"}}, "required": ["correction"]},
            "else": _etas_at_most(1),
        }


def _object_schema(of: type) -> dict[str, Any]:
    properties = {spec.name: spec.schema() for spec in specs(of)}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _etas_at_most(limit: float) -> dict[str, Any]:
    eta = {"properties": {"eta": {"maximum": limit}}}
    return {"properties": {**eta["properties"], "co_models": {"items": eta}}}


def specs(of: type) -> list[Spec]:
    """The settings of `Settings`, `AdapterSettings` or `CoModel`, in the order of the panel and of the plain list."""
    return [item.metadata["spec"] for item in fields(of) if "spec" in item.metadata]


def attribute(of: type, name: str) -> str:
    """The attribute that holds the setting with the API name `name`."""
    return next(item.name for item in fields(of) if "spec" in item.metadata and item.metadata["spec"].name == name)


def flat(slots: int) -> Iterator[tuple[int, Spec]]:
    """(slot number, setting) of every control of a panel with `slots` slots; slot 0 is the main settings.

    The main model's adapter follows the main settings, and then each slot.
    """
    for spec in (*specs(Settings), *specs(AdapterSettings)):
        yield 0, spec
    for slot in range(1, slots + 1):
        for spec in specs(CoModel):
            yield slot, spec


def api_path(slot: int, spec: Spec) -> str:
    """Where a setting of `flat` stands in the API's object: "steps", "main_adapter.image", "co_models[1].gamma"."""
    if slot:
        return f"co_models[{slot - 1}].{spec.name}"
    return f"main_adapter.{spec.name}" if spec in specs(AdapterSettings) else spec.name


def infotext_label(slot: int, spec: Spec) -> str:
    """The setting's key in the infotext: "AMDM", "AMDM steps", "AMDM 2 gamma"."""
    if slot:
        return f"AMDM {slot} {spec.label}"
    return spec.label if spec.name == "enabled" else f"AMDM {spec.label}"


def _build(of: type, given: Mapping[str, Any], prefix: str, beside: tuple[str, ...] = ()) -> Any:
    if not isinstance(given, Mapping):
        raise SettingsError(
            f'AMDM: "{prefix.rstrip(".")}" must be an object of names and values, but it is {short(given)}; change it.'
        )
    known = {item.metadata["spec"].name: item for item in fields(of) if "spec" in item.metadata}
    unknown = [name for name in given if name not in known]
    if unknown:
        name = clipped(unknown[0]) if isinstance(unknown[0], str) else short(unknown[0])
        raise SettingsError(
            f'AMDM: "{prefix}{name}" is not a setting; the settings here are {", ".join([*known, *beside])}.'
        )
    return of(**{known[name].name: known[name].metadata["spec"].check(given[name], prefix + name) for name in given})


def _or_default(given: Any, default: Any) -> Any:
    return default if given is None else given


def _values(holder: Settings | AdapterSettings | CoModel) -> dict[str, Any]:
    told = {}
    for item in fields(holder):
        if item.default is not MISSING and "spec" in item.metadata:
            told[item.metadata["spec"].name] = getattr(holder, item.name)
    return told
