"""The settings: their names, defaults and ranges, and the texts that explain them to a user."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ..errors import short
from ..layout import is_list
from .schema import name_in, object_schema, read, values
from .spec import (
    NO_ADAPTER,
    NO_CHECKPOINT,
    AdapterSpec,
    BoxesSpec,
    CheckpointSpec,
    DeviceSpec,
    LayoutSpec,
    Part,
    PictureSpec,
    SettingsError,
    Spec,
    SwitchSpec,
    WideNumberSpec,
    WordSpec,
    setting,
    specs,
)

AUTO: Literal["auto"] = "auto"
"""The word for a number that is chosen for each picture."""
THROUGH_PIXELS = "pixels"
"""The value of `noise` for a co-model that is shown the main model's prediction as a picture."""
MAX_SLOTS = 10
MAIN_ADAPTER_HELP = (
    "An adapter on the main model, active in all steps or in a fraction of them, with or without co-models."
)


@dataclass(frozen=True)
class _AdapterFields:
    """The settings of an adapter, on any model."""

    adapter: str = setting(
        NO_ADAPTER,
        "Adapter file for this model: IP-Adapter, InteractDiffusion, GLIGEN or MIGC, recognised by its contents.",
        AdapterSpec,
        part=Part.ADAPTER,
    )
    strength: float = setting(
        1.0,
        "Adapter strength; 0 = no effect.",
        label="adapter strength",
        span=(0.0, 2.0, 0.05),
        part=Part.ADAPTER,
    )
    until: float = setting(
        1.0,
        "Fraction of the sampling steps, from the first, in which the adapter is active: 0 = none, 1 = all.",
        label="adapter until",
        span=(0.0, 1.0, 0.01),
        part=Part.ADAPTER,
    )
    image: str = setting(
        "",
        "Reference picture for an IP-Adapter; in the API a picture file as base64.",
        PictureSpec,
        label="adapter image",
        part=Part.ADAPTER,
    )
    layout: str = setting(
        "",
        "Phrases with their boxes for GLIGEN, InteractDiffusion and MIGC, and actions for InteractDiffusion.",
        LayoutSpec,
        label="adapter layout",
        lines=4,
        part=Part.ADAPTER,
    )


@dataclass(frozen=True)
class AdapterSettings(_AdapterFields):
    """An adapter on a model, and its inputs: the main model's (`main_adapter`), or a slot's."""

    LABEL_PREFIX: ClassVar[str] = "main "
    """Captions are those of the main model's adapter; a slot's adapter has CoModel's."""

    @property
    def used(self) -> bool:
        """True if there is an adapter that can change anything."""
        return self.adapter not in ("", NO_ADAPTER) and self.strength > 0 and self.until > 0


@dataclass(frozen=True)
class _ModelFields:
    """The settings of a slot's model, without its adapter."""

    enabled: bool = setting(True, "Use this co-model.", SwitchSpec)
    checkpoint: str = setting(
        NO_CHECKPOINT,
        'Checkpoint to run alongside the main one; "main" runs the main checkpoint with this co-model\'s prompt.',
        CheckpointSpec,
        terse=False,
    )
    gamma: float = setting(
        0.5,
        "How much this model contributes: 0 = nothing, 0.5 = half, 1 = this model alone in the early steps; through "
        "pixels its share is larger, 0.8 for 0.5.",
        span=(0.0, 1.0, 0.01),
        terse=False,
    )
    gamma_end: float | None = setting(
        None,
        "gamma at the last mixed step, reached linearly; empty = constant.",
        WordSpec,
        type=float,
        span=(0.0, 1.0, 0.01),
        part=Part.SELDOM,
    )
    region: str = setting(
        "",
        "Where in the picture this model applies: one box per line, x0 y0 x1 y1 from 0 to 1; empty = everywhere.",
        BoxesSpec,
        lines=2,
        part=Part.REGION,
    )
    mask: str = setting(
        "",
        "Picture that marks where this model applies: by its transparency if it has any, otherwise by its brightness "
        "(white = here); in the API a picture file as base64.",
        PictureSpec,
        transparent=True,
        part=Part.REGION,
    )
    feather: float = setting(
        0.0,
        "Softness of the region's edge, as a fraction of the picture's shorter side; 0 = hard.",
        span=(0.0, 0.5, 0.01),
        part=Part.REGION,
    )
    eta: float = setting(
        0.0,
        "After each mix, how far this model is pulled back towards its own prediction: 0 = not at all, 1 = fully; "
        "with the paper's correction a distance, such as 45.",
        WideNumberSpec,
        span=(0.0, 1000.0, 0.01),
        part=Part.SELDOM,
    )
    prompt: str = setting(
        "",
        "Prompt for this model, in the WebUI's syntax; empty = the main prompt, which {prompt} in a text stands for.",
        lines=2,
    )
    negative_prompt: str = setting(
        "",
        "Negative prompt for this model; empty = the main negative prompt, which {prompt} in a text stands for.",
        lines=2,
        part=Part.SELDOM,
    )
    cfg_scale: float = setting(
        0.0,
        "CFG scale for this model; 0 = the main CFG scale.",
        label="CFG scale",
        span=(0.0, 30.0, 0.5),
        part=Part.SELDOM,
    )
    noise: str = setting(
        "shared",
        "shared = start from the main model's noise, so that the picture stays close to the main model's own; "
        "independent = separate noise, derived from the image's seed; estimate = in each evaluation the main model's "
        "prediction with separate noise; pixels = the same, decoded to a picture and encoded again, as a model of "
        "another latent space always has it.",
        choices=("shared", "independent", "estimate", THROUGH_PIXELS),
        part=Part.SELDOM,
    )
    size: float | Literal["auto"] = setting(
        AUTO,
        "Size of this model's pictures if it is run through pixels: 0 = the picture's; up to 8 a fraction of it, such "
        "as 0.5; above, the side in pixels of a square of the same area. auto = the picture's, or the size that its "
        "kind was trained on if that is far from it.",
        WordSpec,
        word=AUTO,
        meaning=AUTO,
        type=float,
        span=(0.0, 4096.0, 0.1),
        part=Part.SELDOM,
    )
    modules: str = setting(
        "",
        'Files of the VAE and the text encoder of a model of another latent space, by their names in "VAE / Text '
        'Encoder" and separated by commas; empty = those in its own file.',
        label="VAE / text encoder",
        lines=2,
        part=Part.SELDOM,
    )
    device: str = setting(
        AUTO,
        "Device on which this model's UNet runs: auto = the main model's; cpu; cuda:0, cuda:1 and so on if there are "
        "several.",
        DeviceSpec,
        part=Part.SELDOM,
    )


# a dataclass begins with the fields of its last base
@dataclass(frozen=True)
class CoModel(_AdapterFields, _ModelFields):
    """One slot: a model that is run alongside the main one during the first steps, and its adapter."""

    @property
    def has_checkpoint(self) -> bool:
        """True if this slot names something to run."""
        return self.checkpoint not in ("", NO_CHECKPOINT)

    @property
    def used(self) -> bool:
        return self.enabled and self.has_checkpoint

    @property
    def has_share(self) -> bool:
        """True if this model has a share in any step."""
        return self.gamma > 0 or bool(self.gamma_end)

    @property
    def sees_estimate(self) -> bool:
        """True if this model is shown the main model's prediction with separate noise."""
        return self.noise in ("estimate", THROUGH_PIXELS)

    @property
    def module_names(self) -> list[str]:
        """The names of the files of its VAE and text encoder."""
        return [name for name in map(str.strip, self.modules.split(",")) if name]

    @property
    def adapter_settings(self) -> AdapterSettings:
        """The adapter on this model, and its inputs."""
        return AdapterSettings(**{spec.attribute: getattr(self, spec.attribute) for spec in specs(AdapterSettings)})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set for one picture."""

    enabled: bool = setting(
        False, "Run other models alongside the main one in the first steps.", SwitchSpec, label="AMDM"
    )
    steps: int | Literal["auto"] = setting(
        AUTO,
        "K: the number of first sampling steps in which the models run together; then the main one continues alone. "
        "auto = chosen from the picture's size, the sampler and its schedule.",
        WordSpec,
        word=AUTO,
        meaning=AUTO,
        type=int,
        span=(0, 150, 1),
        terse=False,
    )
    evaluations: int | Literal["auto"] = setting(
        AUTO,
        "In how many of these steps a co-model is evaluated; in the others its last difference from the main model is "
        "reused. 0 = all of them; auto = 4, 5 if a co-model is run through pixels, or 7 for samplers that add noise in "
        "every step.",
        WordSpec,
        word=AUTO,
        meaning=AUTO,
        type=int,
        span=(0, 150, 1),
    )
    eta: float = setting(
        0.0,
        "After each mix, how far the main model is pulled back towards its own prediction: 0 = not at all, 1 = fully; "
        "with the paper's correction a distance, such as 45.",
        WideNumberSpec,
        span=(0.0, 1000.0, 0.01),
        terse=False,
    )
    which_pass: str = setting(
        "first",
        "Where the models run together: first, hires or both = these passes of hires fix, without which there is only "
        "the first; detailer = the details that ADetailer draws; all = both passes and the details.",
        name="pass",
        label="pass",
        choices=("first", "hires", "both", "detailer", "all"),
        hires_fix=True,
    )
    start: int = setting(
        0,
        "The first step whose results are mixed; before it each model runs on its own. 0 = from the beginning.",
        span=(0, 149, 1),
        part=Part.SELDOM,
    )
    correction: str = setting(
        "relative",
        "What eta measures: relative = a fraction of the way back to the model's mean, 0 to 1; own = a fraction of the "
        "way to its own step, which keeps the noise; paper = a distance in the paper's units (45, 55).",
        choices=("relative", "own", "paper"),
        part=Part.SELDOM,
    )
    compare: bool = setting(
        False,
        "Also draw each model alone with the same seeds, and a grid of all pictures side by side.",
        shapes_picture=False,
    )
    main_adapter: AdapterSettings = AdapterSettings()
    co_models: tuple[CoModel, ...] = ()

    @property
    def active(self) -> tuple[tuple[int, CoModel], ...]:
        """The slots that can change the picture, with their numbers from 1."""
        numbered = enumerate(self.co_models, 1)
        return tuple((number, slot) for number, slot in numbered if slot.used and slot.has_share)

    @property
    def mixes(self) -> bool:
        """True if models are run together: there is a step to mix in, and a slot that changes the picture."""
        has_steps = isinstance(self.steps, str) or self.steps > self.start
        return self.enabled and has_steps and bool(self.active)

    @property
    def in_details(self) -> bool:
        """True if AMDM takes part in the details that a detailer draws inside a picture."""
        return self.which_pass in ("detailer", "all")

    @property
    def runs(self) -> bool:
        """False if AMDM must not touch anything: it is off, or has neither a co-model to run nor a main adapter."""
        return self.mixes or (self.enabled and self.main_adapter.used)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Settings:
        """Read settings by the API's names; SettingsError names an unknown setting or a wrong type or value."""
        if not isinstance(entries, Mapping):
            raise SettingsError(
                f"AMDM: the settings must be an object of names and values, but they are {short(entries)}; send one."
            )
        slots = _or_default(entries.get("co_models"), ())
        if not is_list(slots):
            raise SettingsError(
                'AMDM: "co_models" must be a list of objects, one for each co-model, but it is '
                f"{short(slots)}; change it."
            )
        if len(slots) > MAX_SLOTS:
            raise SettingsError(
                f'AMDM: "co_models" has {len(slots)} entries, but at most {MAX_SLOTS} can be run; use fewer.'
            )
        co_models = tuple(read(CoModel, slot, f"co-model {number}") for number, slot in enumerate(slots, 1))
        main_adapter = read(AdapterSettings, _or_default(entries.get("main_adapter"), {}), "main_adapter")
        nested = ("main_adapter", "co_models")
        settings = read(cls, {name: value for name, value in entries.items() if name not in nested}, beside=nested)
        return replace(settings, main_adapter=main_adapter, co_models=co_models).checked()

    @classmethod
    def from_list(cls, entries: Sequence[Any]) -> Settings:
        """Read settings from the plain list the page sends (`flat` order)."""
        if not is_list(entries):
            raise SettingsError(
                f"AMDM: the settings must be an object with names, or a plain list, but they are {short(entries)}; "
                "send an object."
            )
        main, adapter, slot = specs(cls), specs(AdapterSettings), specs(CoModel)
        before = len(main) + len(adapter)
        count, left_over = divmod(len(entries) - before, len(slot))
        if count < 0 or left_over:
            raise SettingsError(
                f"AMDM: a plain list needs {before} settings and {len(slot)} more for each co-model, but it has "
                f"{len(entries)} entries; send one object with names instead."
            )
        by_name: dict[str, Any] = {"main_adapter": {}, "co_models": [{} for _ in range(count)]}
        for (number, spec), entry in zip(flat(count), entries):
            if number:
                by_name["co_models"][number - 1][spec.name] = entry
            elif spec in adapter:
                by_name["main_adapter"][spec.name] = entry
            else:
                by_name[spec.name] = entry
        return cls.from_dict(by_name)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by their API names; `from_dict` of it gives the same settings."""
        slots = [values(slot) for slot in self.co_models]
        return {**values(self), "main_adapter": values(self.main_adapter), "co_models": slots}

    def holder(self, slot: int, spec: Spec) -> Settings | AdapterSettings | CoModel:
        """Return the part of the settings that a setting of `flat` is an attribute of."""
        if slot:
            return self.co_models[slot - 1]
        return self.main_adapter if spec in specs(AdapterSettings) else self

    def value(self, slot: int, spec: Spec) -> Any:
        """Return the value of a setting of `flat`."""
        return getattr(self.holder(slot, spec), spec.attribute)

    def checked(self) -> Settings:
        """Return these settings; SettingsError if two of them contradict each other."""
        if self.correction != "paper":
            etas = {"eta": self.eta} | {
                f"eta of co-model {number}": slot.eta for number, slot in enumerate(self.co_models, 1)
            }
            for path, eta in etas.items():
                if eta > 1:
                    raise SettingsError(
                        f'AMDM: "{path}" is {eta:g}, but with the {self.correction} correction it must be from 0 to 1; '
                        'lower it, or set "correction" to "paper" for the paper\'s units.'
                    )
        return self

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Describe the settings as a JSON Schema."""
        main_adapter = {
            **object_schema(AdapterSettings),
            "type": ["object", "null"],
            "description": MAIN_ADAPTER_HELP,
            "default": {},
        }
        co_models = {
            "type": ["array", "null"],
            "items": object_schema(CoModel),
            "maxItems": MAX_SLOTS,
            "default": [],
        }
        main = object_schema(cls)
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "AMDM",
            **main,
            "properties": {**main["properties"], "main_adapter": main_adapter, "co_models": co_models},
            "if": {"properties": {"correction": {"const": "paper"}}, "required": ["correction"]},
            "else": _etas_at_most(1),
        }


def _etas_at_most(limit: float) -> dict[str, Any]:
    eta = {"properties": {"eta": {"maximum": limit}}}
    return {"properties": {**eta["properties"], "co_models": {"items": eta}}}


def _or_default(value: Any, default: Any) -> Any:
    return default if value is None else value


def flat(slots: int) -> Iterator[tuple[int, Spec]]:
    """Yield (slot number, setting) of every control of a panel with `slots` slots; slot 0 is the main settings.

    The main model's adapter follows the main settings, and then each slot.
    """
    for spec in (*specs(Settings), *specs(AdapterSettings)):
        yield 0, spec
    for slot in range(1, slots + 1):
        for spec in specs(CoModel):
            yield slot, spec


def full_name(slot: int, spec: Spec) -> str:
    """Name a setting of `flat` in an error: "steps", "image of main_adapter", "gamma of co-model 2"."""
    if slot:
        return name_in(spec.name, f"co-model {slot}")
    return name_in(spec.name, "main_adapter" if spec in specs(AdapterSettings) else "")


def infotext_label(slot: int, spec: Spec) -> str:
    """Return a setting's key in the infotext: "AMDM", "AMDM steps", "AMDM 2 gamma"."""
    if slot:
        return f"AMDM {slot} {spec.label}"
    return spec.label if isinstance(spec, SwitchSpec) else f"AMDM {spec.label}"
