"""Kinds of settings: each checks a value, describes it as JSON Schema, and gives it to a control of the panel.

A setting is a dataclass field that `setting` makes. Panel, infotext, X/Y/Z axes and API depend on its kind, never on
its name, so a new field needs no change outside this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache
from typing import Any, ClassVar, TypeVar

from ..errors import one_sentence, short
from ..layout import Layout, LayoutError, boxes_of

NO_CHECKPOINT = "None"
MAIN_CHECKPOINT = "main"
NO_ADAPTER = "None"

_SPEC = "spec"
_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


class SettingsError(ValueError):
    """A setting that cannot be used: one sentence that names it and the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(one_sentence(message))


class Part(Enum):
    """The part of the panel that shows a setting."""

    FRONT = "front"
    SELDOM = "seldom"
    REGION = "region"
    ADAPTER = "adapter"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One setting: its default, and what else panel, infotext and API need to know.

    name: in the API.
    label: the caption in the panel and, after "AMDM", in the infotext.
    attribute: the dataclass's own name for it. If empty, these three are derived from the field.
    terse: left out of the infotext while it has its default.
    hires_fix: used only in txt2img, which alone has a hires pass.
    shapes_picture: False for a setting that does not change the picture, and is in no infotext and no plot.
    """

    default: Any
    help: str
    type: type
    name: str = ""
    label: str = ""
    attribute: str = ""
    minimum: float | None = None
    maximum: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    lines: int = 1
    part: Part = Part.FRONT
    terse: bool = True
    hires_fix: bool = False
    shapes_picture: bool = True

    def check(self, value: Any, path: str) -> Any:
        """Return `value` as this setting's own type; SettingsError names `path` and the values allowed.

        None means the default: a page's number field has it once a user has cleared it.
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
        if self.minimum is not None and self.maximum is not None and not self.minimum <= value <= self.maximum:
            span = f"{self.minimum:g} to {self.maximum:g}"
            raise SettingsError(
                f'AMDM: "{path}" must be from {span}{self._or_else}, but it is {short(value)}; change it.'
            )
        return self.type(value)  # only now: a whole number may be too large for a float

    @property
    def _or_else(self) -> str:
        """The words of an error for a value that is allowed instead of a number."""
        return ""

    def schema(self) -> dict[str, Any]:
        """Describe this setting as a JSON Schema property."""
        types = [_JSON_TYPES[self.type], "null"]
        schema: dict[str, Any] = {"type": types, "description": self.help, "default": self.default}
        if self.choices:
            schema["enum"] = [*self.choices, None]
        if self.minimum is not None:
            schema |= {"minimum": self.minimum, "maximum": self.maximum}
        return schema

    def shown(self, value: Any) -> Any:
        """Return `value` as a control of the panel holds it."""
        return value


class SwitchSpec(Spec):
    """A switch for its whole dataclass: AMDM itself, or one slot."""


class WideNumberSpec(Spec):
    """A number with a useful range that depends on other settings: a slider would be too coarse or too short."""


class ListedSpec(Spec):
    """A file by its name in one of the WebUI's lists, or one of `words`, which mean no file."""

    words: ClassVar[tuple[str, ...]] = ()


class CheckpointSpec(ListedSpec):
    """A checkpoint."""

    words = (NO_CHECKPOINT, MAIN_CHECKPOINT)


class AdapterSpec(ListedSpec):
    """An adapter's file."""

    words = (NO_ADAPTER,)


@dataclass(frozen=True, kw_only=True)
class PictureSpec(Spec):
    """A picture: base64 in the API, and too large for an infotext. transparent: its transparency matters."""

    transparent: bool = False


@dataclass(frozen=True, kw_only=True)
class WordSpec(Spec):
    """A number, or a word instead of one: "auto", or an empty text.

    It is a text on the page and in an infotext, and a number or the word in the API. meaning: the value of the word.
    """

    word: str = ""
    meaning: Any = None

    @property
    def pattern(self) -> str:
        """A pattern of the texts that can be read: the word, in small letters or capitals, or a number."""
        word = "".join(f"[{letter}{letter.upper()}]" for letter in self.word)
        return rf"^\s*({word}|-?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?)\s*$"

    def _check(self, value: Any, path: str) -> Any:
        if isinstance(value, str):
            if not re.search(self.pattern, value):
                raise SettingsError(
                    f'AMDM: "{path}" must be {_TYPE_WORDS[self.type]}{self._or_else}, but it is {short(value)}; '
                    "change it."
                )
            text = value.strip().lower()
            if text == self.word:
                return self.meaning
            value = float(text)
        return super()._check(value, path)

    @property
    def _or_else(self) -> str:
        return f' or "{self.word}"' if self.word else " or empty"

    def schema(self) -> dict[str, Any]:
        """Describe the number, the word, its value, or the number as a text, whose range only `check` knows."""
        schema = super().schema()
        number = {name: schema.pop(name) for name in ("type", "minimum", "maximum")}
        other = {"enum": list(dict.fromkeys([self.word, self.meaning]))}
        return {**schema, "anyOf": [number, other, {"type": "string", "pattern": self.pattern}]}

    def shown(self, value: Any) -> str:
        return self.word if value == self.meaning else _number(value)


class DeviceSpec(Spec):
    """A device by torch's name for it, or "auto". Only the machine knows which there are."""

    pattern: ClassVar[str] = r"^(auto|cpu|[a-z]+:[0-9]+)$"

    def _check(self, value: Any, path: str) -> str:
        text: str = super()._check(value, path)
        if not re.search(self.pattern, text):
            raise SettingsError(
                f'AMDM: "{path}" must be auto, cpu or a device with its number, such as cuda:1, but it is '
                f"{short(value)}; change it."
            )
        return text

    def schema(self) -> dict[str, Any]:
        return {**super().schema(), "pattern": self.pattern}


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
        rows: list[dict[str, Any]] = [
            {"phrase": words, "box": {"type": "array", "items": number, "minItems": 4, "maxItems": 4}},
            {"subject": place, "action": words, "object": place},
        ]
        one_of = [
            {"type": "object", "properties": row, "required": list(row), "additionalProperties": False} for row in rows
        ]
        return {**super().schema(), "type": ["string", "array", "null"], "items": {"oneOf": one_of}}


def _number(value: float) -> str:
    """Write a number as a text: 0.5, 3."""
    return repr(value).removesuffix(".0")


def setting(
    default: Any, help: str, kind: type[Spec] = Spec, *, span: tuple[float, float, float] | None = None, **more: Any
) -> Any:
    """Make the dataclass field of a setting.

    span: a number's minimum, maximum and step.
    more: the rest of its Spec.
    """
    if span is not None:
        more |= dict(zip(("minimum", "maximum", "step"), span))
    more.setdefault("type", type(default))
    return field(default=default, metadata={_SPEC: kind(default=default, help=help, **more)})


def specs(of: type) -> tuple[Spec, ...]:
    """List a dataclass's settings, in the order of the panel and of the plain list."""
    return _bound(of)


@cache
def _bound(of: type) -> tuple[Spec, ...]:
    prefix = getattr(of, "LABEL_PREFIX", "")
    pairs = ((item.name, item.metadata[_SPEC]) for item in fields(of) if _SPEC in item.metadata)
    return tuple(
        replace(
            spec,
            attribute=attribute,
            name=spec.name or attribute,
            label=prefix + (spec.label or attribute.replace("_", " ")),
        )
        for attribute, spec in pairs
    )


Kind = TypeVar("Kind", bound=Spec)


def of_kind(kind: type[Kind], among: Iterable[Spec]) -> list[Kind]:
    """List the settings of one kind."""
    return [spec for spec in among if isinstance(spec, kind)]


def only(kind: type[Kind], among: Iterable[Spec]) -> Kind:
    """Return the one setting of its kind."""
    (spec,) = of_kind(kind, among)
    return spec


def named(name: str, among: Iterable[Spec]) -> Spec:
    """Find a setting by its API name."""
    return next(spec for spec in among if spec.name == name)
